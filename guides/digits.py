"""Train a small transformer with Soft MoE on handwritten digits.

    KERAS_BACKEND=jax python guides/digits.py

Two models read the 1,797 images of scikit-learn's digits (8 x 8 pixels, from
the UCI repository; the data ships inside the package): one with `SoftMoE` in
its blocks, one with a dense MLP of equal cost. It prints the accuracy of both
on held-out images and writes a picture of what some of the slots read.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tensors are small: one thread is as fast as two, and PyTorch is many
# times slower with two where something else keeps a core busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras  # noqa: E402  (the backend is chosen above)
import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from tqdm import tqdm  # noqa: E402

import keras_moe  # noqa: E402
import keras_moe.visualize  # noqa: E402

PATCH = 2
TOKENS = (8 // PATCH) ** 2  # 16
WIDTH, HEADS, BLOCKS = 64, 4, 3
EXPERTS, SLOTS, HIDDEN = 8, 2, 128
BATCH = 64


def dense_hidden():
    """Hidden features at which the dense MLP costs what `SoftMoE` costs.

    An MLP costs 4·D·F FLOPs a token. Soft MoE spends the same on each slot,
    and 2·D for each pair of token and slot three times: logits, dispatch and
    combine.
    """
    slots = EXPERTS * SLOTS
    soft = 4 * slots * WIDTH * HIDDEN + 6 * TOKENS * slots * WIDTH
    return round(soft / (4 * TOKENS * WIDTH))


def cut(images):
    """Images (n,8,8) to patches (n,TOKENS,PATCH²)."""
    side = 8 // PATCH
    patches = images.reshape(-1, side, PATCH, side, PATCH)
    return patches.transpose(0, 1, 3, 2, 4).reshape(-1, TOKENS, PATCH**2)


def shifted(images):
    """Every image in nine places, moved by up to one pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.concatenate(
        [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    )


def load_data():
    """Training images and labels, held-out images and labels."""
    digits = load_digits()
    images = digits.images.astype("float32") / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images,
        digits.target,
        test_size=450,
        random_state=0,
        stratify=digits.target,
    )
    return train_x, train_y, test_x, test_y


class Positions(keras.layers.Layer):
    """Adds a learned vector to each place."""

    def build(self, shape):
        self.places = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="places"
        )

    def call(self, tokens):
        return tokens + self.places


def mlp(block, moe):
    """What stands where a transformer block has its MLP."""
    if moe:
        return keras_moe.layers.SoftMoE(
            EXPERTS, SLOTS, intermediate_dim=HIDDEN, name=f"soft_moe_{block}"
        )
    return keras.Sequential(
        [
            keras.layers.Dense(dense_hidden(), activation="gelu"),
            keras.layers.Dense(WIDTH),
        ],
        name=f"mlp_{block}",
    )


def build(moe):
    """A pre-norm transformer; the last two blocks may hold `SoftMoE`."""
    patches = keras.Input((TOKENS, PATCH**2))
    tokens = keras.layers.Dense(WIDTH)(patches)
    tokens = Positions()(tokens)
    for block in range(BLOCKS):
        normed = keras.layers.LayerNormalization()(tokens)
        mixed = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(
            normed, normed
        )
        tokens = keras.layers.Add()([tokens, mixed])
        normed = keras.layers.LayerNormalization()(tokens)
        branch = mlp(block, moe and block > 0)(normed)
        branch = keras.layers.Dropout(0.1)(branch)
        tokens = keras.layers.Add()([tokens, branch])
    tokens = keras.layers.LayerNormalization()(tokens)
    pooled = keras.layers.GlobalAveragePooling1D()(tokens)
    return keras.Model(patches, keras.layers.Dense(10)(pooled))


class Bar(keras.callbacks.Callback):
    """One progress bar for the whole of `fit`."""

    def __init__(self, title, steps):
        super().__init__()
        self.title, self.steps = title, steps

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.steps, desc=self.title, unit="step")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix(
            loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.3f}"
        )

    def on_train_end(self, logs=None):
        self.bar.close()


def train(title, moe, data, epochs):
    """Train one model, and return it with its held-out accuracy."""
    images, labels, test_x, test_y = data
    train_x, train_y = cut(shifted(images)), np.tile(labels, 9)
    keras.utils.set_random_seed(0)
    model = build(moe)
    steps = -(-len(train_x) // BATCH) * epochs
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                0.0,
                max(1, steps),
                warmup_target=3e-3,
                warmup_steps=steps // 10,
            ),
            weight_decay=0.05,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        train_x,
        train_y,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[Bar(title, steps)],
    )
    _, accuracy = model.evaluate(
        cut(test_x), test_y, batch_size=len(test_x), verbose=0
    )
    return model, accuracy


def draw(model, data, path, rows=5):
    """Write the picture: held-out images, and what slots read of them."""
    _, _, test_images, test_y = data
    images = test_images[:rows]
    with keras_moe.diagnostics.capture() as plans:
        logits = model(cut(images), training=False)
    guesses = keras.ops.convert_to_numpy(logits).argmax(-1)
    side = 8 // PATCH
    figure = keras_moe.visualize.slot_regions(
        images,
        plans[model.get_layer(f"soft_moe_{BLOCKS - 1}").path],
        (side, side),
        titles=[f"is {y}, says {g}" for y, g in zip(test_y, guesses)],
        title="What slots of the last Soft MoE layer read (red: most)",
    )
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--picture", type=pathlib.Path, default="demo_digits_slots.png"
    )
    arguments = parser.parse_args(arguments)
    start = time.perf_counter()
    data = load_data()
    backend = keras.backend.backend()
    print(
        f"{len(data[0])} images of digits to train on, {len(data[2])} held "
        f"out; backend {backend}."
    )
    dense, dense_accuracy = train("dense MLP", False, data, arguments.epochs)
    soft, soft_accuracy = train("Soft MoE ", True, data, arguments.epochs)
    draw(soft, data, arguments.picture)
    print("\nmodel      held-out accuracy   parameters   FLOPs of an MLP block")
    flops = 4 * TOKENS * WIDTH * dense_hidden()
    for title, model, accuracy in (
        ("dense MLP", dense, dense_accuracy),
        ("Soft MoE", soft, soft_accuracy),
    ):
        print(
            f"{title:<10} {accuracy:17.1%}   {model.count_params():10,}   "
            f"{flops:21,}"
        )
    print(f"\nPicture: {arguments.picture}")
    print(f"Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()

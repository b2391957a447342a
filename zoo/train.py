"""Training a preset: seeded, with a progress bar, resumable."""

import json
import pathlib
import platform
import time

import keras
import numpy as np
from tqdm import tqdm

import keras_moe
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoEViTImageClassifierPreprocessor
from keras_moe.models import image_converter
from keras_moe.models.presets import write_json
from zoo import data as datasets


def build(recipe):
    """The classifier of a recipe, with new weights."""
    backbone = MoEViTBackbone(**recipe.backbone)
    converter = image_converter(backbone.image_shape)
    return MoEViTImageClassifier(
        backbone,
        len(datasets.CLASSES[recipe.data]),
        preprocessor=MoEViTImageClassifierPreprocessor(converter),
        **recipe.classifier,
    )


def ready(images):
    """Pixels 0…255 as the model reads them, like `image_converter`'s."""
    return images.astype("float32") / 127.5 - 1


class Batches(keras.utils.PyDataset):
    """Augmented batches of all epochs, which follow from seed and place.

    So a run that was broken off goes on exactly as it would have. All epochs
    are in one: Keras fetches batches before the callbacks that could tell the
    epoch.
    """

    def __init__(
        self, images, labels, classes, recipe, seed, epochs, first_epoch=0
    ):
        super().__init__()
        self.images = images
        self.labels = np.eye(classes, dtype="float32")[labels]
        self.recipe = recipe
        self.seed = seed
        self.steps = len(images) // recipe.batch_size  # of an epoch
        self.first_epoch = first_epoch
        self.epochs = epochs
        self._shuffled = None, None

    def __len__(self):
        return self.steps * (self.epochs - self.first_epoch)

    def order(self, epoch):
        """The order of the images in one epoch."""
        if self._shuffled[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._shuffled = epoch, rng.permutation(len(self.images))
        return self._shuffled[1]

    def __getitem__(self, index):
        size, recipe = self.recipe.batch_size, self.recipe
        epoch, step = divmod(index, self.steps)
        epoch += self.first_epoch
        chosen = self.order(epoch)[step * size : (step + 1) * size]
        rng = np.random.default_rng((self.seed, epoch, step))
        images = datasets.augment(
            self.images[chosen],
            rng,
            flip=recipe.flip,
            shift=recipe.shift,
            erase=recipe.erase,
        )
        return ready(images), self.labels[chosen]


class Progress(keras.callbacks.Callback):
    """One bar for the run, and its history."""

    def __init__(self, title, batches, history):
        super().__init__()
        self.title, self.batches = title, batches
        self.history = history

    def on_train_begin(self, logs=None):
        steps = self.batches.steps
        self.bar = tqdm(
            total=steps * self.batches.epochs,
            initial=steps * self.batches.first_epoch,
            desc=self.title,
            unit="step",
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if batch % 50 == 0:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        seconds = round(time.perf_counter() - self.started, 1)
        entry = {k: round(float(v), 5) for k, v in logs.items()}
        self.history[epoch] = {"epoch": epoch, "seconds": seconds, **entry}
        tqdm.write(json.dumps(self.history[epoch]))

    def on_train_end(self, logs=None):
        self.bar.close()


class History(dict):
    """Epoch → record, kept in a JSON file as it grows."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if self.path.is_file():
            kept = json.loads(self.path.read_text())
            super().__init__({entry["epoch"]: entry for entry in kept})

    def __setitem__(self, epoch, entry):
        super().__setitem__(epoch, entry)
        write_json(self.path, [self[key] for key in sorted(self)])


def train(recipe, folder, seed=0, data_folder=None, epochs=None):
    """Train a recipe, or go on with a run that was broken off.

    Args:
        recipe: what to train.
        folder: of the run: state after each epoch in `backup`, `history.json`,
            and in the end the preset in `preset`.
        seed: of weights, data order and augmentation.
        data_folder: where the data set lies, see `zoo.data`.
        epochs: instead of the recipe's, to try it out.

    Returns:
        The trained classifier.
    """
    folder = pathlib.Path(folder)
    epochs = recipe.epochs if epochs is None else epochs
    parts = datasets.DATASETS[recipe.data](data_folder)
    classes = len(datasets.CLASSES[recipe.data])
    keras.utils.set_random_seed(seed)
    classifier = build(recipe)
    history = History(folder / "history.json")
    batches = Batches(
        *parts["train"], classes, recipe, seed, epochs, len(history)
    )
    steps = batches.steps * epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        warmup_target=recipe.learning_rate,
        warmup_steps=max(1, round(recipe.warmup * steps)),
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=recipe.weight_decay, global_clipnorm=1.0
    )
    # Biases, norms and lone vectors are not pulled to zero.
    optimizer.exclude_from_weight_decay(
        var_names=["bias", "scale", "gamma", "beta", "positions", "token"]
    )
    # KerasHub's `fit` would preprocess; the batches are ready.
    model = keras.Model(classifier.input, classifier.output)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=["accuracy"],
    )
    images, labels = parts["validation"]
    validation = (
        ready(images),
        np.eye(classes, dtype="float32")[labels],
    )
    model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=batches.steps,
        shuffle=False,  # the order is that of `Batches`
        verbose=0,
        validation_data=validation,
        validation_batch_size=250,
        callbacks=[
            keras.callbacks.BackupAndRestore(
                str(folder / "backup"), delete_checkpoint=False
            ),
            Progress(f"{recipe.name} seed {seed}", batches, history),
        ],
    )
    classifier.save_to_preset(folder / "preset")
    write_json(
        folder / "training.json",
        {
            "recipe": recipe.name,
            "seed": seed,
            "epochs": epochs,
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "keras_moe": keras_moe.__version__,
            "python": platform.python_version(),
            "seconds": round(sum(e["seconds"] for e in history.values())),
        },
    )
    return classifier

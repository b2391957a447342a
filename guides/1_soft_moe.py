# %% [markdown]
# # 1. Soft MoE in five minutes
#
# A transformer block spends most of its work in its MLP, and every token goes
# through the same MLP. A mixture of experts has many MLPs, the experts. Most
# routers send each token to a few experts. Soft MoE ([Puigcerver et al.,
# 2023](https://arxiv.org/abs/2308.00951)) makes no such choice: an expert reads
# *slots*, and each slot is a weighted mean of all tokens.
#
# This guide looks at one layer, trains a small vision transformer with it on
# handwritten digits, and shows what its slots read. It takes about a minute on
# one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,demo"

# %%
# %matplotlib inline
import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_moe
import keras_moe.visualize

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The data
#
# scikit-learn comes with 1,797 digits of 8 x 8 pixels. Each digit becomes 16
# tokens, patches of 2 x 2 pixels. 450 images are held out.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
images = digits.images[order].astype("float32") / 16
labels = digits.target[order]
# (n,8,8) -> (n,4,2,4,2) -> (n,4,4,2,2) -> (n,16,4)
patches = images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
patches = patches.reshape(-1, 16, 4)
test_x, test_y = patches[:450], labels[:450]
train_x, train_y = patches[450:], labels[450:]
print(train_x.shape, test_x.shape)

# %% [markdown]
# ## One layer
#
# `SoftMoE` takes tokens (batch, tokens, features) and returns tokens of the
# same shape. Here: 8 experts with 2 slots each.

# %%
layer = keras_moe.layers.SoftMoE(
    num_experts=8, slots_per_expert=2, intermediate_dim=16
)
some = keras.ops.convert_to_tensor(test_x[:3])
with keras_moe.diagnostics.capture() as plans:
    outputs = layer(some)
print("tokens in", tuple(some.shape), "tokens out", tuple(outputs.shape))

# %% [markdown]
# The router computes a *plan*: two arrays of weights, each (images, tokens,
# experts, slots).
#
# - **dispatch** weights say what a slot reads. They are a softmax over the
#   *tokens*, so the weights of one slot sum to one.
# - **combine** weights say what a token receives. They are a softmax over all
#   *slots*, so the weights of one token sum to one.

# %%
plan = plans[layer.path]
dispatch, combine = (keras.ops.convert_to_numpy(w) for w in plan.weights())
print("dispatch", dispatch.shape)
print("what slot 0 of expert 0 reads sums to", dispatch[0, :, 0, 0].sum())
print("what token 0 receives sums to", combine[0, 0].sum())

# %% [markdown]
# With these weights the layer is three lines: dispatch tokens to slots, apply
# each expert to its slots, combine the outputs of the experts to tokens. The
# layer drops no token, gives all experts the same number of slots, and has a
# gradient everywhere.

# %%
slots = np.einsum("gtd,gtes->gesd", test_x[:3], dispatch)
processed = layer.experts(keras.ops.convert_to_tensor(slots))
by_hand = np.einsum(
    "gesd,gtes->gtd", keras.ops.convert_to_numpy(processed), combine
)
difference = by_hand - keras.ops.convert_to_numpy(outputs)
print("largest difference from the layer:", abs(difference).max().round(6))

# %% [markdown]
# ## A small transformer
#
# The layer replaces the MLP of a block. Its cost depends on the number of
# slots, not on the number of experts: 16 slots for 16 tokens cost what a dense
# MLP of the same hidden size costs, plus the routing. The experts have 8 times
# as many weights as that MLP.

# %%
WIDTH, HIDDEN, BLOCKS = 32, 64, 2


class Positions(keras.layers.Layer):
    """Adds a learned vector to each place."""

    def build(self, shape):
        self.places = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="places"
        )

    def call(self, tokens):
        return tokens + self.places


def mlp(name):
    dense = keras.layers.Dense
    return keras.Sequential(
        [dense(HIDDEN, activation="gelu"), dense(WIDTH)], name=name
    )


def soft(name):
    return keras_moe.layers.SoftMoE(8, 2, intermediate_dim=HIDDEN, name=name)


def build(make):
    """A pre-norm transformer on patches; `make` gives the MLP of a block."""
    inputs = keras.Input((16, 4))
    tokens = Positions()(keras.layers.Dense(WIDTH)(inputs))
    for block in range(BLOCKS):
        normed = keras.layers.LayerNormalization()(tokens)
        attention = keras.layers.MultiHeadAttention(4, WIDTH // 4)
        tokens = tokens + attention(normed, normed)
        normed = keras.layers.LayerNormalization()(tokens)
        tokens = tokens + make(f"mlp_{block}")(normed)
    tokens = keras.layers.LayerNormalization()(tokens)
    pooled = keras.layers.GlobalAveragePooling1D()(tokens)
    model = keras.Model(inputs, keras.layers.Dense(10)(pooled))
    model.compile(
        keras.optimizers.Adam(4e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


# %% [markdown]
# Train it, and the same transformer with dense MLPs.

# %%
EPOCHS = 5
models = {"dense MLP": build(mlp), "Soft MoE": build(soft)}
for name, model in models.items():
    print(name)
    model.fit(
        train_x,
        train_y,
        batch_size=64,
        epochs=EPOCHS,
        validation_data=(test_x, test_y),
        validation_batch_size=450,
        verbose=2,
    )

# %%
for name, model in models.items():
    accuracy = model.history.history["val_accuracy"][-1]
    print(
        f"{name:<10} {model.count_params():>7,} parameters, "
        f"held-out accuracy {accuracy:.1%}"
    )

# %% [markdown]
# The two numbers do not show which layer is better: the data set is tiny, the
# training is short, and another seed changes each accuracy by some percent.
#
# Experts help a model that lacks parameters. On the 55,000 training images of
# Fashion-MNIST, a transformer with tokens of 24 features and Soft MoE reaches a
# test accuracy of 0.8662 ± 0.0020. Its dense twin of equal step time, with
# wider MLPs, reaches 0.8526 ± 0.0050 (three seeds each). With tokens of 64
# features the two are equal. In the repository, `python -m zoo train
# soft_moe_vit_narrow_fashion_mnist` trains the first one in a minute, and
# zoo/README.md has all figures.

# %% [markdown]
# ## What the slots read
#
# The picture shows five held-out images and the six slots with the largest
# combine weights. Red marks the patches with the largest dispatch weights of a
# slot. The smallest and the largest weight stand above each map.

# %%
model = models["Soft MoE"]
shown = [np.flatnonzero(test_y == digit)[0] for digit in (0, 2, 4, 6, 8)]
with keras_moe.diagnostics.capture() as plans:
    logits = model(keras.ops.convert_to_tensor(test_x[shown]))
guesses = keras.ops.convert_to_numpy(logits).argmax(-1)
last_layer = model.get_layer(f"mlp_{BLOCKS - 1}")
keras_moe.visualize.slot_regions(
    images[shown],
    plans[last_layer.path],
    (4, 4),
    titles=[
        f"label {y}, prediction {g}" for y, g in zip(test_y[shown], guesses)
    ],
    title="Dispatch weights of the last Soft MoE layer",
)

# %% [markdown]
# ## Exercises
#
# 1. Set `slots_per_expert` to 1, then to 4. How do the accuracy and the time of
#    an epoch change?
# 2. 16 experts with one slot cost as much as 8 experts with two slots. Which
#    model has the higher accuracy?
# 3. A slot mixes *all* tokens. Why can a causal language model not use Soft
#    MoE? Guide 4 has a layer that such a model can use.
# 4. Train on nine copies of each image, shifted by up to one pixel (`np.pad`,
#    then crop). Which of the two models gains more from the additional data?
#
# Next: guide 2 looks inside routers.

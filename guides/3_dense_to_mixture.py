# %% [markdown]
# # 3. Turn a dense ViT into a mixture of experts, and fine-tune it
#
# *Upcycling* ([Komatsuzaki et al., 2022](https://arxiv.org/abs/2212.05055))
# makes a mixture of experts from a trained dense model: each expert starts as a
# copy of the dense model's MLP, all other weights are copied, and training
# continues. The experts become different because the router gives them
# different tokens.
#
# This guide trains a small dense vision transformer of KerasHub on handwritten
# digits, upcycles it to Soft MoE, compares the two models before further
# training, and fine-tunes both. It takes about a minute on one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,demo"

# %%
# %matplotlib inline
import keras
import keras_hub
import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import keras_moe
from keras_moe import visualize

keras.utils.set_random_seed(0)

# %% [markdown]
# ## A dense model
#
# The data are 1,797 digits of 8 x 8 pixels, of which 450 are held out.
# KerasHub's vision transformer reads each digit as 16 patches of 2 x 2 pixels.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
images = digits.images[order, ..., None].astype("float32") / 8 - 1
labels = digits.target[order]
test_x, test_y = images[:450], labels[:450]
train_x, train_y = images[450:], labels[450:]

backbone = keras_hub.models.ViTBackbone(
    image_shape=(8, 8, 1),
    patch_size=2,
    num_layers=2,
    num_heads=4,
    hidden_dim=32,
    mlp_dim=64,
    use_class_token=False,
)
dense = keras_hub.models.ViTImageClassifier(
    backbone, num_classes=10, pooling="gap"
)


def train(model, learning_rate, epochs):
    """Train, and return the held-out loss at the start and of each epoch."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    held_out = {"x": test_x, "y": test_y, "batch_size": 450, "verbose": 0}
    before, _ = model.evaluate(**held_out)
    found = model.fit(
        train_x,
        train_y,
        batch_size=64,
        epochs=epochs,
        validation_data=(test_x, test_y),
        validation_batch_size=450,
        verbose=2,
    )
    return [before, *found.history["val_loss"]]


first_curve = train(dense, 4e-3, 5)

# %% [markdown]
# ## Upcycle it
#
# One call replaces the MLPs in the second half of the blocks, here one block of
# two, by 8 experts with 2 slots each. 16 slots for 16 tokens cost about what
# the MLP costs. The images in `calibration` set the first slot embeddings, so
# that each slot reads tokens of one kind.

# %%
sparse = keras_moe.upcycle(
    dense,
    "soft",
    num_experts=8,
    router_options={"slots_per_expert": 2},
    calibration=train_x[:128],
)
print(type(sparse).__name__)
print(f"dense  {dense.count_params():>7,} parameters")
print(f"sparse {sparse.count_params():>7,} parameters")

# %% [markdown]
# How close is the new model to the dense one? With equal experts, token choice
# of all experts computes the dense model's logits up to rounding. Soft MoE only
# approximates them: its experts read mixtures of tokens, and the MLP of a
# mixture is not the mixture of the MLPs' outputs.

# %%
all_experts = keras_moe.upcycle(
    dense, "token_choice", num_experts=8, router_options={"top_k": 8}
)
expected = dense.predict(test_x, batch_size=450, verbose=0)
for name, model in (("token choice", all_experts), ("Soft MoE", sparse)):
    logits = model.predict(test_x, batch_size=450, verbose=0)
    print(
        f"{name:<12} largest difference of a logit "
        f"{abs(logits - expected).max():.5f}, same class for "
        f"{(logits.argmax(-1) == expected.argmax(-1)).mean():.1%}"
    )

# %% [markdown]
# ## Fine-tune
#
# For a fair comparison the dense model gets as many further epochs as the
# upcycled one. Both use a smaller learning rate than before.

# %%
print("dense, trained on")
dense_curve = train(dense, 1e-3, 3)
print("upcycled")
sparse_curve = train(sparse, 1e-3, 3)

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
start = len(first_curve) - 1
axis.plot(first_curve, color="gray", label="dense")
epochs = start + np.arange(len(dense_curve))
axis.plot(
    epochs, dense_curve, color="gray", linestyle="--", label="dense, further"
)
axis.plot(epochs, sparse_curve, color="tab:red", label="upcycled")
axis.set(xlabel="epoch", ylabel="held-out loss", yscale="log")
axis.legend()
plt.show()
for name, curve in (("dense", dense_curve), ("upcycled", sparse_curve)):
    print(f"{name:<9} held-out loss {curve[0]:.3f}, then {curve[-1]:.3f}")

# %% [markdown]
# The upcycled model starts near the dense one. Do not expect a lower loss from
# it here: its experts have more weights than 1,347 images can train. Experts
# help a model that lacks parameters and has enough data; guides 1 and 4 have
# figures of two such models. `guides/upcycling.py` in the repository trains
# longer, with every router and with mixtures from scratch; the site's page on
# upcycling shows its results.

# %% [markdown]
# ## What the slots read

# %%
shown = [np.flatnonzero(test_y == digit)[0] for digit in (1, 3, 7, 9)]
with keras_moe.diagnostics.capture() as plans:
    sparse(keras.ops.convert_to_tensor(test_x[shown]), training=False)
(plan,) = plans.values()
visualize.slot_regions(
    test_x[shown] / 2 + 0.5,
    plan,
    (4, 4),
    titles=[f"label {label}" for label in test_y[shown]],
    title="Dispatch weights of the upcycled layer",
)

# %% [markdown]
# ## Exercises
#
# 1. Leave out `calibration`. How far are the logits from the dense model's,
#    before and after fine-tuning?
# 2. Add noise to the experts at the start, `expert_noise=0.1`. Do the experts
#    become different faster? `diagnostics.summarize` has their similarity.
# 3. Replace the router of the fine-tuned model, `keras_moe.upcycle(sparse,
#    "expert_choice")`. How many steps does the model need to reach its former
#    accuracy?
# 4. `keras_hub.models.ViTImageClassifier.from_preset(...)` loads models trained
#    on ImageNet. Upcycle one.

# %% [markdown]
# # 3. Turn a dense ViT into a mixture of experts, and fine-tune it
#
# Training a mixture of experts from nothing wastes what a dense model knows
# already. *Upcycling* ([Komatsuzaki et al.,
# 2022](https://arxiv.org/abs/2212.05055)) starts each expert as a copy of the
# dense model's MLP, copies everything else, and trains on. The experts part as
# the router sends them different tokens.
#
# You will train a small dense vision transformer of KerasHub on handwritten
# digits, turn it into a Soft MoE, check what it knows before any further
# training, and fine-tune both. It takes about a minute on one core of a CPU.

# %% [markdown]
# In a clone of the project, install `-e ".[jax,demo]"` instead.

# %% tags=["skip-execution"]
# %pip install -q "keras-moe[jax,demo]"

# %%
import os

# Before Keras is imported. "torch" and "tensorflow" do as well.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tensors are small; several threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
# 1,797 digits of 8 x 8 pixels, of which 450 are held out. For KerasHub's vision
# transformer each is 16 patches of 2 x 2 pixels.

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
    """Held-out loss before training and after each epoch."""
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
# One call. The second half of the blocks, here one block of two, gets 8 experts
# with 2 slots each: 16 slots for 16 tokens, so the model costs about what it
# did. `calibration` shows it some images, so that the slots begin where the
# tokens are.

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
# How much of the dense model is in it? With equal experts a *token* choice
# model that asks for all of them says exactly what the dense model says. A Soft
# MoE says it nearly: its experts read mixtures of tokens, and an MLP of a
# mixture is not the mixture of MLPs.

# %%
everybody = keras_moe.upcycle(
    dense, "token_choice", num_experts=8, router_options={"top_k": 8}
)
says = dense.predict(test_x, batch_size=450, verbose=0)
for name, model in (("token choice", everybody), ("Soft MoE", sparse)):
    logits = model.predict(test_x, batch_size=450, verbose=0)
    print(
        f"{name:<12} largest difference of a logit "
        f"{abs(logits - says).max():.5f}, same answer for "
        f"{(logits.argmax(-1) == says.argmax(-1)).mean():.1%}"
    )

# %% [markdown]
# ## Fine-tune
#
# The dense model trains on as long as the upcycled one, for a fair comparison,
# and both with a smaller learning rate.

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
axis.plot(epochs, dense_curve, color="gray", linestyle="--", label="dense, on")
axis.plot(epochs, sparse_curve, color="tab:red", label="upcycled")
axis.set(xlabel="epoch", ylabel="held-out loss", yscale="log")
axis.legend()
plt.show()

# %% [markdown]
# The upcycled model begins a little behind, since its slots mix tokens, and
# catches up. The dense model may well stay ahead here: eight experts have more
# weights than 1,347 images can teach. `guides/upcycling.py` in the repository
# runs longer, with every router, and beside models that start from nothing:
# those are behind the upcycled ones.

# %% [markdown]
# ## What the new slots read

# %%
with keras_moe.diagnostics.capture() as plans:
    sparse(keras.ops.convert_to_tensor(test_x[:4]), training=False)
(plan,) = plans.values()
visualize.slot_regions(
    test_x[:4] / 2 + 0.5,
    plan,
    (4, 4),
    titles=[f"is {label}" for label in test_y[:4]],
    title="Slots of the upcycled layer",
)

# %% [markdown]
# ## Exercises
#
# 1. Leave out `calibration`. How far are the logits from the dense model's now,
#    and after fine-tuning?
# 2. Give the experts noise at the start, `expert_noise=0.1`. Do they part
#    faster? `diagnostics.summarize` tells how alike they read.
# 3. Turn the fine-tuned model's router into another one:
#    `keras_moe.upcycle(sparse, "expert_choice")`. How many steps does it need
#    to be as good again?
# 4. `keras_hub.models.ViTImageClassifier.from_preset(...)` gives models that
#    have learned ImageNet; `keras_moe.upcycle` takes them as it took this one.

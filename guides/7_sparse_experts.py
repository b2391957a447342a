# %% [markdown]
# # 7. KerasHub's mixtures of experts, made sparse
#
# Mixtral, the Qwens, gpt-oss and Gemma 4 choose a few experts for each token.
# KerasHub computes every expert, most with weight zero. One call has a model
# compute the chosen ones alone; a second one stores the experts in 8 or 4 bits.
#
# This guide measures both on a small random model of each family, trains a tiny
# Qwen3-MoE on English text, lets it write, quantises it and lets it write
# again. It takes about three minutes on one core of a CPU. Presets work alike:
# `keras_hub.models.CausalLM.from_preset("qwen3_moe_30b_a3b_en")` where there is
# memory for it.

# %% tags=["setup"]
EXTRAS = "jax,models,viz"

# %%
# %matplotlib inline
import ast
import os
import pathlib
import time

import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np

import keras_moe

keras.utils.set_random_seed(0)
# Set to leave out most families and most of the training.
SHORT = "KERAS_MOE_GUIDE_SHORT" in os.environ

# %% [markdown]
# ## One model of each family
#
# One block of 128 features and 32 experts, 2 for each token: the experts'
# work should fall to a sixteenth.

# %%
SHARED = {
    "vocabulary_size": 256,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 128,
    "num_experts": 32,
}
QWEN = {"moe_intermediate_dim": 256, "top_k": 2}
FAMILIES = {
    "Qwen3Moe": {"intermediate_dim": 256, "head_dim": 32, **QWEN},
    "Mixtral": {"intermediate_dim": 256, "top_k": 2},
    "QwenMoe": {
        "intermediate_dim": 256,
        "shared_expert_intermediate_dim": 256,
        **QWEN,
    },
    "Qwen3_5Moe": {
        "head_dim": 32,
        "shared_expert_intermediate_size": 256,
        "layer_types": ["full_attention"],
        **QWEN,
    },
    "GptOss": {"intermediate_dim": 256, "head_dim": 32, "top_k": 2},
    "Gemma4": {
        "intermediate_dim": 256,
        "head_dim": 32,
        "image_size": 16,
        "enable_moe_block": True,
        "expert_intermediate_dim": 256,
        "num_experts_per_token": 2,
    },
}
if SHORT:
    FAMILIES = {"Qwen3Moe": FAMILIES["Qwen3Moe"]}


def inputs_of(tokens):
    tokens = np.asarray(tokens, "int32")
    places = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))
    return {
        "token_ids": tokens,
        "padding_mask": np.ones_like(tokens),
        "position_ids": places,
    }


def tokens_per_second(model, inputs):
    """Of `predict`, after a call that compiles it."""
    model.predict_on_batch(inputs)
    start = time.perf_counter()
    for _ in range(3):
        model.predict_on_batch(inputs)
    return 3 * inputs["token_ids"].size / (time.perf_counter() - start)


def megabytes(model):
    """Of all weights."""
    sizes = (
        np.prod(weight.shape) * np.dtype(weight.dtype).itemsize
        for weight in model.weights
    )
    return sum(sizes) / 1e6


# %% [markdown]
# `use_sparse_experts` returns the blocks that changed; `use_dense_experts`
# would bring KerasHub's own code back. `quantize_experts` frees the kernels in
# float.

# %%
tokens = np.random.default_rng(0).integers(1, 256, (4, 128))
speeds, sizes = {}, {}
for name, options in FAMILIES.items():
    backbone = getattr(keras_hub.models, f"{name}Backbone")(**SHARED, **options)
    inputs = {
        one.name: inputs_of(tokens)[one.name]
        for one in backbone.inputs
        if one.name in inputs_of(tokens)
    }
    before = backbone.predict_on_batch(inputs)
    dense = tokens_per_second(backbone, inputs)
    keras_moe.use_sparse_experts(backbone)
    after = backbone.predict_on_batch(inputs)
    sparse = tokens_per_second(backbone, inputs)
    floats = megabytes(backbone)
    keras_moe.quantize_experts(backbone, "int4")
    speeds[name], sizes[name] = (dense, sparse), (floats, megabytes(backbone))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    print(
        f"{name:11} {dense:9,.0f} -> {sparse:9,.0f} tokens per second, "
        f"weights {floats:5.1f} MB -> {megabytes(backbone):4.1f} MB in int4"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
places = np.arange(len(speeds))
for axis, values, title, labels in (
    (axes[0], speeds, "tokens per second", ("KerasHub", "sparse")),
    (axes[1], sizes, "MB of weights", ("float", "int4 experts")),
):
    for column, label in enumerate(labels):
        heights = [pair[column] for pair in values.values()]
        axis.bar(places + 0.4 * column - 0.2, heights, 0.4, label=label)
    axis.set_xticks(places, values, rotation=30)
    axis.set_title(title)
    axis.legend()
figure.tight_layout()

# %% [markdown]
# ## A tiny Qwen3-MoE that reads English
#
# Its text ships with the package: the docstrings of keras_moe's own modules,
# byte by byte. Two blocks of 16 experts, 2 for each byte.

# %%
folder = pathlib.Path(keras_moe.__file__).parent
docstrings = []
for path in sorted(folder.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            docstrings.append(ast.get_docstring(node) or "")
text = "\n".join(filter(None, docstrings)).encode("ascii", "ignore")
print(f"{len(text):,} bytes")

LENGTH = 96
sequences = np.frombuffer(text, "uint8")
sequences = sequences[: len(text) // (LENGTH + 1) * (LENGTH + 1)]
sequences = sequences.reshape(-1, LENGTH + 1).astype("int32")
sequences = np.random.default_rng(0).permutation(sequences)
if SHORT:
    sequences = sequences[: 16 * 30]

# %% [markdown]
# Sparse from the first step: the gradients are KerasHub's, and so is the
# auxiliary loss that keeps the experts equally busy.

# %%
backbone = keras_hub.models.Qwen3MoeBackbone(
    vocabulary_size=256,
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=64,
    intermediate_dim=128,
    moe_intermediate_dim=64,
    num_experts=16,
    top_k=2,
    head_dim=16,
    norm_top_k_prob=True,
)
model = keras_hub.models.Qwen3MoeCausalLM(backbone, preprocessor=None)
keras_moe.use_sparse_experts(model)
model.compile(
    optimizer=keras.optimizers.Adam(3e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    sampler="greedy",
)


class StopAfter(keras.callbacks.Callback):
    """Ends training after so many seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.end = time.perf_counter() + seconds

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = time.perf_counter() > self.end


# %%
inputs = inputs_of(sequences[:, :-1])
del inputs["position_ids"]
history = model.fit(
    inputs,
    sequences[:, 1:],
    batch_size=16,
    epochs=1 if SHORT else 40,
    shuffle=False,
    callbacks=[StopAfter(60)],
    verbose=0,
)
losses = history.history["loss"]
print(f"{losses[-1]:.2f} nats per byte; a guess among 256 has 5.55")

# %% [markdown]
# ## It writes, is quantised, and writes again


# %%
def write(start, length=64):
    known = np.frombuffer(start.encode(), "uint8")
    inputs = {
        "token_ids": np.zeros((1, length), "int32"),
        "padding_mask": np.zeros((1, length), "int32"),
    }
    inputs["token_ids"][0, : len(known)] = known
    inputs["padding_mask"][0, : len(known)] = 1
    made = model.generate(inputs, stop_token_ids=None)["token_ids"]
    return np.asarray(made)[0].astype("uint8").tobytes()


sample = {name: one[:8] for name, one in inputs.items()}
before = model.predict_on_batch(sample)
print("float", f"{megabytes(model):.2f} MB", write("The experts "))
keras_moe.quantize_experts(model, "int8")
print("int8 ", f"{megabytes(model):.2f} MB", write("The experts "))
after = model.predict_on_batch(sample)
error = np.linalg.norm(after - before) / np.linalg.norm(before)
print(f"logits differ by {error:.1%}")

# %% [markdown]
# A file of a quantised model is keras_moe's. KerasHub refuses it, as its banks
# have fewer weights; within `quantize_while_loading` it loads. So does a float
# file or preset, of which then one block at a time is in float.

# %%
backbone.save_weights("tiny.weights.h5")
with keras_moe.quantize_while_loading("int8"):
    again = keras_hub.models.Qwen3MoeBackbone.from_config(backbone.get_config())
again.load_weights("tiny.weights.h5")
states = [one.predict_on_batch(sample) for one in (backbone, again)]
print("computes the same:", np.array_equal(*states))

# %% [markdown]
# ## Exercises
#
# 1. Quantise to `"int4"` in groups of 128 rather than 64. How much more do the
#    logits differ?
# 2. `keras_moe.enable_expert_lora(model, rank=4)` trains adapters of each
#    expert, also of a quantised one. Train them on another text.
# 3. Measure `tokens_per_second` with 1 token and with 4,096. Which of the two
#    gains more, and why?

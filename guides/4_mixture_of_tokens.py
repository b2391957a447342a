# %% [markdown]
# # 4. A Mixture of Tokens language model
#
# Soft MoE lets a token read the tokens behind it, so a model that writes from
# left to right cannot use it. Mixture of Tokens ([Antoniak et al.,
# 2023](https://arxiv.org/abs/2310.15961)) mixes in another direction: across
# the *batch*. The tokens at the same place of different texts form a group, an
# expert reads one mixture of each group, and its answer goes back to the
# group's tokens with the weights of the mixture.
#
# No token sees what is behind it. But it sees what stands beside it in other
# people's texts. This guide writes with a small model that has read
# Shakespeare's plays, shows what the batch-mates do to a text and how to be rid
# of them, and trains the model on. It takes about a minute on one core of a
# CPU.

# %% [markdown]
# In a clone of the project, install `-e ".[jax,models,viz]"` instead.

# %% tags=["skip-execution"]
# %pip install -q "keras-moe[jax,models,viz]"

# %%
import os

# Before Keras is imported. "torch" and "tensorflow" do as well.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tensors are small; several threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# %%
# %matplotlib inline
import codecs
import contextlib
import io

import keras
import keras_hub
import numpy as np

from keras_moe import diagnostics
from keras_moe import models
from keras_moe import visualize

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The model
#
# 2.7 million parameters, bytes for tokens, 4 blocks, of which two have 32
# experts and groups of 8 texts.

# %%
model = models.MoTCausalLM.from_preset("mot_tiny_shakespeare")
options = model.backbone.router_options
print(f"{model.count_params():,} parameters")
print("blocks with experts:", model.backbone.moe_layers)
print("experts:", options["num_experts"], " group:", options["group_size"])

# %% [markdown]
# ## Batch-mates
#
# Two batches of 8 texts, one group each. The first text is the same in both,
# the other seven are not. `inference_mixing` says how tokens are mixed when
# the model is not in training:
#
# - `"group"`: as in training and in the paper, with the batch-mates.
# - `"self"`: each token in a group of copies of itself. More work for the
#   experts, since nothing is shared.
# - `"argmax"`: each token goes to the one expert that likes it best.
#
# What are the logits of the first text in the two batches?

# %%
TEXT = "The king is dead, "
batches = [
    [TEXT, *(f"{word} my lord, " for word in words.split())]
    for words in (
        "Good Peace Nay Come Welcome Farewell Alas",
        "Sweet Dear Noble Gentle Worthy Gracious Brave",
    )
]

for mode in ("group", "self", "argmax"):
    model.inference_mixing = mode
    # (8 texts, 128 places, 257 bytes); the rest of the places is padding
    first, second = (
        np.asarray(model.predict_on_batch(texts))[0, : len(TEXT)]
        for texts in batches
    )
    difference = abs(first - second).max()
    print(f"{mode:<7} logits differ by up to {difference:.5f}")

# %% [markdown]
# In `"group"` mode the model's answer to you depends on who else asked. That is
# no mistake of the code, it is what was published. Whether it matters depends
# on the use: it does where answers must be repeatable, or where one user's text
# must not leak into another's.
#
# The preset that ships has `"argmax"`, for which it was tuned after training.

# %% [markdown]
# ## Writing
#
# With greedy sampling the model takes the likeliest byte each time, so nothing
# but the batch-mates can make a difference.

# %%
model.compile(sampler="greedy")
for mode in ("group", "argmax"):
    model.inference_mixing = mode
    print(f"inference_mixing = {mode!r}")
    for texts in batches:
        written = model.generate(texts, max_length=48)
        print("   ", repr(written[0]))

# %% [markdown]
# For livelier text take a sampler of KerasHub's that draws.

# %%
model.compile(
    sampler=keras_hub.samplers.TopKSampler(k=20, temperature=0.8, seed=3)
)
print(model.generate("To be, or not to be", max_length=120))

# %% [markdown]
# ## Who reads what
#
# Tokens of one colour get most from the same expert. The model learned from
# plain bytes: most spaces (␣) go to one expert, and letters to others,
# depending on what stands before them.

# %%
lines = [
    "Shall I compare thee to a summer's day?",
    "Now is the winter of our discontent made",
    "If music be the food of love, play on; g",
    "All the world's a stage, and all the men",
    "The course of true love never did run sm",
    "Some are born great, some achieve greatn",
    "Friends, Romans, countrymen, lend me you",
    "We are such stuff as dreams are made on,",
]
inputs = model.preprocessor.generate_preprocess(lines, sequence_length=39)
with diagnostics.capture() as plans:
    model.backbone(inputs, training=False)
path = list(plans)[-1]
tokens = [["·", *line[:38]] for line in lines]  # the start token, then bytes
visualize.token_experts(tokens, plans.layers[path], plans[path])

# %% [markdown]
# ## Training on
#
# `fit` takes texts. In training, tokens are always mixed with their
# batch-mates. Here the model learns a text of quite another kind: the Zen of
# Python, which ships with Python itself. Loss is in nats per byte.

# %%
with contextlib.redirect_stdout(io.StringIO()):  # it prints itself
    import this
zen = codecs.decode(this.s, "rot13")
model.preprocessor.sequence_length = 64
pieces = [zen[start : start + 62] for start in range(0, 768, 8)]
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    sampler="greedy",
)
_ = model.fit(pieces, batch_size=8, epochs=2, verbose=2)

# %%
print(model.generate("Beautiful is better", max_length=60))

# %% [markdown]
# ## Exercises
#
# 1. Generate one text alone in `"group"` mode. Who are its batch-mates then?
#    (`padding` of `MixtureOfTokens` has the answer.)
# 2. Measure the time of `generate` in the three modes. Which is the price of
#    independence?
# 3. Train on with `inference_mixing` of `"group"` and look at the texts in
#    `"self"` and `"argmax"` mode: how much of what was learned together is
#    known alone? `python -m zoo tune` trains for that, in the repository.

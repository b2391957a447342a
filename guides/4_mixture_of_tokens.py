# %% [markdown]
# # 4. A Mixture of Tokens language model
#
# In Soft MoE a token depends on later tokens of its sequence, so a causal
# language model cannot use it. Mixture of Tokens ([Antoniak et al.,
# 2023](https://arxiv.org/abs/2310.15961)) mixes across the *batch* instead. The
# tokens at one position of several texts form a group. Each expert reads one
# mixture of the group, and its output returns to the tokens of the group with
# the weights of the mixture.
#
# No token depends on later tokens. But it depends on the other texts of the
# batch. This guide generates text with a small model trained on Shakespeare's
# plays, measures how the other texts change a text, shows two modes without
# this effect, and trains the model further. Last comes a model with another
# router, token choice, which is better than a dense one. The guide takes about
# a minute on one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,models,viz"

# %%
# %matplotlib inline
import codecs
import contextlib
import io

import keras
import keras_hub
import numpy as np
from matplotlib import pyplot as plt

from keras_moe import diagnostics
from keras_moe import models
from keras_moe import visualize

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The model
#
# The model has 2.7 million parameters and reads bytes as tokens. Two of its
# four blocks have 32 experts and groups of 8 texts.

# %%
model = models.MoTCausalLM.from_preset("mot_tiny_shakespeare")
options = model.backbone.router_options
print(f"{model.count_params():,} parameters")
print("blocks with experts:", model.backbone.moe_layers)
print("experts:", options["num_experts"], " group:", options["group_size"])

# %% [markdown]
# ## Dependence on the batch
#
# Take two batches of 8 texts, one group each. The first text is the same in
# both batches, the other seven differ. `inference_mixing` sets how the model
# mixes tokens outside training:
#
# - `"group"`: with the other texts of the group, as in training and in the
#   paper.
# - `"self"`: each token in a group of copies of itself. The experts compute
#   more, because texts share no slot.
# - `"argmax"`: each token goes to the expert with its largest router weight.
#
# The cell prints how much the logits of the first text differ between batches.

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
    # (8 texts, 128 positions, 257 bytes); positions after the text are padding
    first, second = (
        np.asarray(model.predict_on_batch(texts))[0, : len(TEXT)]
        for texts in batches
    )
    difference = abs(first - second).max()
    print(f"{mode:<7} logits differ by up to {difference:.5f}")

# %% [markdown]
# In `"group"` mode a text's logits depend on the other texts of its batch, as
# published. Use another mode where results must be repeatable, or where texts
# of different users must not influence each other.
#
# The preset uses `"argmax"`; it was tuned for this mode after training.

# %% [markdown]
# ## Generate text
#
# Greedy sampling takes the most probable byte at each step, so only the other
# texts of the batch can change a result.

# %%
model.compile(sampler="greedy")
for mode in ("group", "argmax"):
    model.inference_mixing = mode
    print(f"inference_mixing = {mode!r}")
    for texts in batches:
        written = model.generate(texts, max_length=48)
        print("   ", repr(written[0]))

# %% [markdown]
# The model takes any sampler of KerasHub. This one draws from the 20 most
# probable bytes.

# %%
model.compile(
    sampler=keras_hub.samplers.TopKSampler(k=20, temperature=0.8, seed=3)
)
print(model.generate("To be, or not to be", max_length=120))

# %% [markdown]
# ## The experts of each byte
#
# The colour of a byte is the expert from which it receives most. The six
# experts with most bytes have a colour each; all others are grey. ␣ is a space.

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
tokens = [["·", *line[:38]] for line in lines]  # "·" is the start token
visualize.token_experts(tokens, plans.layers[path], plans[path])

# %% [markdown]
# ## Train further
#
# `fit` takes texts. Training always mixes the tokens of a group. Here the model
# learns the Zen of Python, a text that comes with Python. The loss is in nats
# per byte.

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
# ## Token choice, where experts win
#
# On Shakespeare's plays alone, Mixture of Tokens is no better than a dense
# model of about equal step time. Experts bring parameters, so they help where
# texts take many parameters to learn. The next preset, `moe_lm_tiny_domains`,
# learned from plays, a dictionary, manual pages in four languages and Python's
# documentation. Its router is token choice without drops: each byte chooses 2
# of 16 experts of a block. No byte depends on other texts.
#
# After 4,000 steps this model takes 2.3819 ± 0.0318 bits for a byte of test
# data (three seeds), its dense twin 2.5347 ± 0.0133. A step of the twin is
# somewhat shorter; at equal time the experts are better by 0.1156 bits on
# validation data. In the repository, zoo/README.md has the figures of each
# domain.

# %%
domains = models.MoTCausalLM.from_preset("moe_lm_tiny_domains")
domains.compile(
    sampler=keras_hub.samplers.TopKSampler(k=20, temperature=0.7, seed=3)
)
print(f"{domains.count_params():,} parameters")
for start in ("The function ", "Le fichier ", "El comando ", "Die Datei "):
    print(repr(domains.generate(start, max_length=80)))

# %% [markdown]
# Texts of one domain choose other experts than texts of another. The cell
# counts, for each text, the share of its bytes that choose an expert of the
# last block.

# %%
texts = {
    "Python": "The function returns a list of the names in the module.",
    "French": "Le fichier est ouvert en lecture et ses droits sont lus.",
    "German": "Die Datei wird zum Lesen geöffnet, falls sie vorhanden ist.",
    "Japanese": "このコマンドはファイルを表示する。",
}
shares = []
for text in texts.values():
    ids = np.array([list(text.encode())])
    ready = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    with diagnostics.capture() as plans:
        domains.backbone(ready, training=False)
    _, combine = list(plans.values())[-1].weights()  # (1,bytes,experts,slots)
    chosen = keras.ops.convert_to_numpy(combine).sum(-1) > 0
    shares.append(chosen[0].mean(0))
figure, axis = plt.subplots(figsize=(7, 2), layout="constrained")
image = axis.imshow(np.stack(shares), aspect="auto", cmap="Reds")
axis.set_yticks(range(len(texts)), texts)
axis.set(xlabel="expert of the last block", xticks=range(len(shares[0])))
figure.colorbar(image, label="share of bytes")
plt.show()

# %% [markdown]
# Nobody told the router of languages. Still, most bytes of the German text
# choose one expert, and most of the Japanese text another. Japanese has bytes
# of its own; German shares most of its bytes with French and English.

# %% [markdown]
# ## Exercises
#
# 1. Generate one text alone in `"group"` mode. What else is in its group? (See
#    `padding` of `MixtureOfTokens`.)
# 2. Measure the time of `generate` in the three modes. How much do `"self"` and
#    `"argmax"` cost?
# 3. Train further, then generate in `"self"` and `"argmax"` mode. How much does
#    the text get worse without the group? `python -m zoo tune`, in the
#    repository, trains for these modes.

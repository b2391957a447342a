# %% [markdown]
# # 8. Find drawings by words
#
# A model of two towers maps images and texts into one space. The image tower
# gives a vector of each image, the text tower a vector of each text, and texts
# that describe an image get vectors near the image's ([CLIP, Radford et al.,
# 2021](https://arxiv.org/abs/2103.00020); [SigLIP, Zhai et al.,
# 2023](https://arxiv.org/abs/2303.15343)). So words find images, and names
# classify them.
#
# This guide searches drawings with a trained model of 2.5 million parameters,
# looks into the Soft MoE layers of its image tower, and trains a small model on
# 330 drawings. It takes about two minutes on one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,models,viz"

# %%
# %matplotlib inline
import os

import keras
import numpy as np
from matplotlib import pyplot

from keras_moe import diagnostics
from keras_moe import models
from keras_moe import samples
from keras_moe import visualize

keras.utils.set_random_seed(0)
# Set to leave out most of the training.
SHORT = "KERAS_MOE_GUIDE_SHORT" in os.environ

# %% [markdown]
# ## Search
#
# The package has 412 drawings of emoji in the style of Twemoji. The model was
# trained on drawings of the same things in four other styles, with their names
# and words that describe them. It has not seen any of these drawings. Half of
# the captions in the last part of its training began with a phrase such as "a
# picture of a", so queries may, too.

# %%
images, _, names = samples.emoji()
model = models.MoETwoTower.from_preset("soft_moe_two_tower_tiny_emoji")
print(f"{len(images)} drawings, {model.count_params():,} parameters")
embeddings = model.encode_image(images)
print("embeddings", embeddings.shape)

# %% [markdown]
# `search` encodes a text and returns the drawings with the largest products of
# embeddings. The embeddings of the drawings are computed once.


# %%
def show(queries, k=5):
    found, _ = model.search(embeddings, queries, k)
    figure, axes = pyplot.subplots(
        len(queries), k, figsize=(1.3 * k + 1.5, 1.3 * len(queries))
    )
    for query, indices, row in zip(queries, found, axes):
        row[0].set_ylabel(query, rotation=0, ha="right", va="center")
        for index, axis in zip(indices, row):
            axis.imshow(images[index])
            axis.set_title(names[index], fontsize=6)
            axis.set(xticks=[], yticks=[])
    figure.tight_layout()


show(["a red fruit", "a crying face", "a broken heart", "a vegetable"])

# %% [markdown]
# How often is the drawing of a name the best of all 412, and how often among
# the best five?


# %%
def recall(model, images, names, k):
    found, _ = model.search(images, list(names), k)
    own = np.arange(len(names))[:, None]
    return (found == own).any(axis=1).mean()


for k in (1, 5):
    print(f"recall@{k}: {recall(model, embeddings, names, k):.1%}")

# %% [markdown]
# ## Classes by name
#
# `zero_shot_classifier` makes a classifier of class names: its kernel holds the
# embeddings of the names, each put into a template. The true class here is the
# word that the name of a drawing contains.

# %%
classes = ["face", "heart", "cat", "monkey", "moon"]
words = [set(name.replace("-", " ").split()) for name in names]
chosen = [i for i, own in enumerate(words) if len(own & set(classes)) == 1]
labels = [
    next(c for c, word in enumerate(classes) if word in words[i])
    for i in chosen
]
classifier = model.zero_shot_classifier(classes, ["a picture of a {}"])
guesses = classifier.predict(images[chosen], verbose=0).argmax(-1)
right = guesses == labels
print(f"{right.mean():.0%} of {len(chosen)} drawings are in the right class")

# %% [markdown]
# ## What the slots read
#
# The image tower cuts a drawing into 16 patches. Its last two blocks are Soft
# MoE layers with 16 experts of one slot. Red marks the patches with the largest
# dispatch weights of a slot.

# %%
shown = [names.index(name) for name in ("red apple", "owl", "tulip", "crab")]
tower = model.backbone.image_tower
ready = model.preprocessor({"images": images[shown]})["images"]
with diagnostics.capture() as plans:
    tower(ready)
visualize.slot_regions(
    images[shown],
    list(plans.values())[-1],
    tower.grid,
    titles=[names[index] for index in shown],
)
# %% [markdown]
# ## Train a small model
#
# Hold out every fifth drawing. The names of the others are the captions; the
# tokenizer knows their words. Some words of the held-out names, such as "face"
# or "cat", occur in other names too, and only these can be learned.

# %%
held = np.arange(len(images)) % 5 == 0
train_images, train_names = images[~held], np.array(names)[~held]
test_images, test_names = images[held], np.array(names)[held]
SHAPE, LENGTH = (32, 32, 3), 8

tokenizer = models.CaptionTokenizer.from_captions(train_names.tolist())
backbone = models.MoETwoTowerBackbone(
    image_tower=models.MoEViTBackbone(
        SHAPE,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        router="soft",
        moe_layers=(1,),
        router_options={"num_experts": 16, "slots_per_expert": 1},
        stem_dims=(16, 32),
    ),
    text_tower=models.TextTransformerBackbone(
        tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        max_sequence_length=LENGTH,
    ),
    projection_dim=64,
    text_pooling="mean",
)
preprocessor = models.MoETwoTowerPreprocessor(
    models.image_converter(SHAPE), tokenizer, LENGTH
)
small = models.MoETwoTower(backbone, preprocessor, loss="softmax")
small.compile(keras.optimizers.AdamW(2e-3))
print(
    f"{small.count_params():,} parameters, {tokenizer.vocabulary_size()} words"
)

# %% [markdown]
# With `loss="softmax"`, each drawing of a batch chooses its name among the
# names of the batch, and each name its drawing. So batches must differ between
# epochs: `fit` takes one epoch at a time, shuffled, and each drawing is shifted
# by up to two pixels.

# %%
rng = np.random.default_rng(0)
padding = [(0, 0), (2, 2), (2, 2), (0, 0)]
padded = np.pad(train_images, padding, constant_values=255)


def shifted():
    moved = np.empty_like(train_images)
    for image, out, (y, x) in zip(
        padded, moved, rng.integers(0, 5, (len(moved), 2))
    ):
        out[:] = image[y : y + 32, x : x + 32]
    return moved


epochs = 1 if SHORT else 60
for epoch in range(epochs):
    order = rng.permutation(len(train_names))[:320]
    history = small.fit(
        shifted()[order], train_names[order], batch_size=64, verbose=0
    )
    if (epoch + 1) % 20 == 0:
        print(f"epoch {epoch + 1}: loss {history.history['loss'][0]:.2f}")

# %%
for title, some_images, some_names in (
    ("training drawings", train_images, train_names),
    ("held-out drawings", test_images, test_names),
):
    share = recall(small, some_images, some_names, 5)
    chance = 5 / len(some_names)
    print(f"{title}: recall@5 {share:.1%}, by chance {chance:.1%}")

# %% [markdown]
# The small model knows its training drawings. Of others it finds more than by
# chance, by the words that their names share with those. The trained model
# above saw seven times as many names, each drawn in up to four styles.
#
# ## Exercises
#
# 1. Train with `loss="sigmoid"`: each pair of a drawing and a name is a yes or
#    no. Which of the two learns faster with batches of 64?
# 2. Replace half of the names by one of their words, such as the last.
#    Set `same_caption` of `MoETwoTower`: what should two drawings with the
#    caption "face" be to each other?
# 3. Make the image tower dense (`router=None`) and compare the recall on
#    training drawings at equal epochs.

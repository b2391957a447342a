# %% [markdown]
# # 2. Look inside a router
#
# A router decides which expert works on what. Nothing in a loss curve shows
# whether it does so sensibly: experts may all read the same, one may carry
# everything, tokens may be dropped. This guide looks at the routers of a
# trained vision transformer, first in numbers, then in pictures, and puts two
# hard routers beside its soft one.
#
# Nothing is trained. It takes less than a minute on one core of a CPU.

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
import dataclasses

import keras
import numpy as np

import keras_moe
from keras_moe import diagnostics
from keras_moe import models
from keras_moe import samples
from keras_moe import visualize

# %% [markdown]
# ## The model and the images
#
# A Soft MoE vision transformer of six blocks ships with the package; it has
# learned Fashion-MNIST. Its last three blocks have 16 experts with three slots
# each instead of an MLP. An image of 28 x 28 pixels is 49 tokens, patches of 4
# x 4. Of the 300 test images that ship too, take four of each class.

# %%
classifier = models.MoEViTImageClassifier.from_preset(
    "soft_moe_vit_tiny_fashion_mnist"
)
data = samples.fashion_mnist()
chosen = np.concatenate(
    [np.flatnonzero(data.labels == label)[:4] for label in range(10)]
)
images, labels = data.images[chosen], data.labels[chosen]
ready = classifier.preprocessor(images)


def look(model):
    """Logits of the images, and the plan of each router on the way."""
    with diagnostics.capture() as plans:
        logits = model(ready, training=False)
    return keras.ops.convert_to_numpy(logits), plans


logits, plans = look(classifier)
print(f"{(logits.argmax(-1) == labels).mean():.0%} of {len(labels)} are right")
print("plans of", *plans)

# %% [markdown]
# ## In numbers
#
# `summarize` tells four things of a plan:
#
# - **load**: each expert's share in what the tokens receive. Times the number
#   of experts it is 1 where all are alike.
# - **dropped**: the share of tokens that no expert serves.
# - **entropy**: how evenly a token spreads over experts; 0 is one expert, 1
#   all of them alike.
# - **similarity**: the cosine between what two experts read; 1 means that all
#   read the same, and then one expert would have done.


# %%
def table(plans):
    print("layer          largest load  dropped  entropy  similarity")
    for path, plan in plans.items():
        facts = diagnostics.summarize(plan)
        load = facts["load"].max() * len(facts["load"])
        layer = path.split("/")[-2]  # the block
        print(
            f"{layer:<14} {load:12.2f} {facts['dropped']:8.1%} "
            f"{abs(facts['entropy']):8.2f} {facts['similarity']:11.2f}"
        )


table(plans)

# %% [markdown]
# Soft MoE drops nothing, by construction: each token receives a mixture of all
# slots. But it is no even mixture: an entropy of 1 would say that every token
# takes the mean of all slots, and a similarity of 1 that every slot reads the
# same. From block to block tokens spread over fewer experts (the entropy
# falls), some of which are asked for more than others (the load), and in the
# last block experts read more alike than in the first.

# %%
last = list(plans.values())[-1]
visualize.expert_load(last, title="Who carries what, in the last block")

# %%
visualize.expert_similarity(last, title="Which experts read alike")

# %% [markdown]
# ## In pictures
#
# For six images of different classes: what the most used slots of the last
# block read. Each picture is stretched from what its slot reads least of (no
# red) to what it reads most of, so that small differences show. Tokens of the
# last block know of the whole image, by attention: a slot that reads a dark
# corner may read more than a corner.

# %%
# One image of each of six classes, and these rows of the plan.
shown = np.array([4 * label for label in (0, 1, 5, 7, 8, 9)])
names = [data.classes[label] for label in labels[shown]]
grid = classifier.backbone.grid


def rows(plan, *arrays):
    """The plan of the images that are shown; `arrays` have a row for each."""
    return dataclasses.replace(
        plan,
        **{
            name: keras.ops.take(getattr(plan, name), shown, axis=0)
            for name in arrays
        },
    )


of_six = rows(last, "tokens")
visualize.slot_regions(images[shown], of_six, grid, titles=names)

# %% [markdown]
# And how much of each patch all slots read together. 1 is what it would be if
# all patches were read alike.

# %%
visualize.token_weights(images[shown], of_six, grid, titles=names)

# %% [markdown]
# ## Hard routers
#
# In hard routers a token has a seat with an expert or it has none. `upcycle`
# keeps the experts of this model and turns its routers into others:
#
# - **Expert Choice**: each expert takes the tokens it likes best, as many as it
#   has seats. The load is even; a token that nobody takes is dropped.
# - **Token choice**: each token asks for its best expert. An expert that too
#   many ask for turns the late ones away, and its neighbours have free seats.
#
# Both have about one seat for each token here, as there were slots.

# %%
expert_choice = keras_moe.upcycle(
    classifier, "expert_choice", router_options={"capacity_factor": 1.0}
)
token_choice = keras_moe.upcycle(
    classifier,
    "token_choice",
    router_options={"top_k": 1, "capacity_factor": 1.0},
)
hard = {"Expert Choice": expert_choice, "token choice": token_choice}
hard_plans = {}
for name, model in hard.items():
    logits, hard_plans[name] = look(model)
    right = (logits.argmax(-1) == labels).mean()
    print(f"\n{name}, not tuned: {right:.0%} are right")
    table(hard_plans[name])

# %% [markdown]
# The new routers have not been trained, so the model has lost a part of what
# it knew. A little training brings it back; how, is in guide 3.
#
# In the table look at *largest load* and *dropped*. Expert Choice fills all
# seats (the load is exactly 1) and yet drops tokens, since popular tokens take
# several seats. With token choice most tokens ask for the same few experts,
# which have four seats each for this image: the others are turned away while
# seats elsewhere stay empty. A dropped token is not lost: it skips the experts
# of this block, as a block adds what they say to the token. And experts differ
# now in what they read, since they must: the similarity is near 0.

# %% [markdown]
# The patches that no expert of the last block serves are blacked out on the
# right; in the middle is the number of seats of each.

# %%
last = list(hard_plans["Expert Choice"].values())[-1]
visualize.token_weights(
    images[shown],
    rows(last, "token", "gate"),
    grid,
    titles=names,
    title="Expert Choice",
)

# %% [markdown]
# ## In your own model
#
# - `diagnostics.RouterMonitor(x)` is a callback that logs the four numbers
#   after each epoch of `fit`, for `History` and TensorBoard.
# - `visualize.report(model, batch, "report.html")` writes all of these pictures
#   for each router to one page.
#
# ## Exercises
#
# 1. Switch off an expert: set the weights `layer.experts.down` of one expert to
#    zero (`plans.layers[path]` is the layer) and find the class that suffers
#    most. Is it the expert that the class's pictures show?
# 2. Give Expert Choice a `capacity_factor` of 2. How many tokens are still
#    dropped?
# 3. Permute the patches of an image. Does the load of the experts change?

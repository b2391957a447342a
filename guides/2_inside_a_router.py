# %% [markdown]
# # 2. Look inside a router
#
# A router decides which expert reads which tokens. A loss curve does not show
# when routing fails: all experts may read the same tokens, one expert may have
# most of the load, and tokens may be dropped. This guide looks at the routers
# of a trained vision transformer, first as numbers, then as pictures, and
# compares its soft router with two hard routers.
#
# The guide ends with two toy tasks, which show when each router helps. It takes
# about two minutes on one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,models,viz"

# %%
# %matplotlib inline
import os

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
# The package comes with a Soft MoE vision transformer of six blocks, trained on
# Fashion-MNIST, and with 300 test images. The last three blocks have 16 experts
# with three slots each instead of an MLP. An image of 28 x 28 pixels is 49
# tokens, patches of 4 x 4 pixels. Take four images of each class.

# %%
classifier = models.MoEViTImageClassifier.from_preset(
    "soft_moe_vit_tiny_fashion_mnist"
)
data = samples.fashion_mnist()
chosen = np.concatenate(
    [np.flatnonzero(data.labels == label)[:4] for label in range(10)]
)
images, labels = data.images[chosen], data.labels[chosen]


def look(model, images=images):
    """Logits of the images, and the plan of each router."""
    inputs = model.preprocessor(images)
    with diagnostics.capture() as plans:
        logits = model(inputs, training=False)
    return keras.ops.convert_to_numpy(logits), plans


logits, plans = look(classifier)
print(f"{(logits.argmax(-1) == labels).mean():.0%} of {len(labels)} are right")
print("plans of", *plans)

# %% [markdown]
# ## In numbers
#
# `summarize` computes four numbers from a plan:
#
# - **load**: the share of each expert in what the tokens receive. The table
#   shows the largest load times the number of experts, which is 1 for an even
#   load.
# - **dropped**: the share of tokens that no expert reads.
# - **entropy**: how evenly a token receives from the experts; 0 means from one
#   expert, 1 from all experts equally.
# - **similarity**: the mean cosine between what two slots or experts read; 1
#   means that all read the same tokens.


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
# Soft MoE drops no token: each token receives a mixture of all slots. An
# entropy of 1 would mean that every token receives the mean of all experts.
# From block to block the entropy falls, so a token receives most from fewer
# experts. The largest load rises, and so does the similarity of what the slots
# read.

# %%
last = list(plans.values())[-1]
visualize.expert_load(last, title="Load of the experts in the last block")

# %%
visualize.expert_similarity(last, title="Similarity of the experts")

# %% [markdown]
# ## In pictures
#
# The next picture shows the most used slots of the last block for six images of
# different classes. The scale of each map runs from the smallest dispatch
# weight of its slot (no red) to the largest one (red); both stand above the
# map. Attention has mixed the tokens of the last block, so a token at a dark
# corner may hold information about the whole image.

# %%
shown = np.array([4 * label for label in (0, 1, 5, 7, 8, 9)])
names = [data.classes[label] for label in labels[shown]]
grid = classifier.backbone.grid
_, plans_of_six = look(classifier, images[shown])
last = list(plans_of_six.values())[-1]
visualize.slot_regions(images[shown], last, grid, titles=names)

# %% [markdown]
# The next picture shows the sum of the dispatch weights of each patch over all
# slots. The mean of a map is 48 / 49, as there are 48 slots and 49 tokens.

# %%
visualize.token_weights(images[shown], last, grid, titles=names)

# %% [markdown]
# ## Hard routers
#
# A hard router puts whole tokens into capacity slots. `upcycle` keeps the
# experts of this model and replaces its routers:
#
# - **Expert Choice**: each expert takes the tokens with its largest gates, one
#   for each of its capacity slots. The load is even. A token that no expert
#   takes is dropped.
# - **Token choice**: each token goes to the expert with its largest gate. When
#   the capacity slots of that expert are full, the token is dropped, even if
#   other experts have empty capacity slots.
#
# A capacity factor of 1 gives about as many capacity slots as tokens: 3 for
# each expert with Expert Choice and 4, which is 49 / 16 rounded up, with token
# choice.

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
# The new routers are not trained, so the accuracy falls. Guide 3 trains a model
# after such a change.
#
# Expert Choice fills all capacity slots, so its load is even. It drops tokens
# nevertheless, because several experts take the same token. Token choice drops
# more tokens, although it has more capacity slots than there are tokens: some
# experts are full while others have empty capacity slots. A dropped token skips
# the experts of this block and keeps its value through the residual connection.
# The similarity is 0 with token choice, where each token has one expert, and
# small with Expert Choice.

# %% [markdown]
# The maps show the number of capacity slots that hold each patch in the last
# block. Dropped patches are hatched.

# %%
_, plans_of_six = look(expert_choice, images[shown])
visualize.token_weights(
    images[shown],
    list(plans_of_six.values())[-1],
    grid,
    titles=names,
    title="Expert Choice",
)

# %% [markdown]
# ## Which router fits which task
#
# Two toy tasks show when each router helps. A token of 16 features is one of
# eight kinds. The target is a small network of the token, and each kind has its
# own network. In the first task, the 32 tokens of an example have nothing to do
# with each other. In the second task, all tokens of one kind in an example are
# noisy copies of one vector, and the target is a function of this vector.


# %%
# Set to leave out most of the training.
EPOCHS = 1 if "KERAS_MOE_GUIDE_SHORT" in os.environ else 8
KINDS, TOKENS, FEATURES = 8, 32, 16
rng = np.random.default_rng(0)
marks = 2 * rng.normal(size=(KINDS, FEATURES))  # tell the kinds apart
inner, outer = rng.normal(size=(2, KINDS, FEATURES, FEATURES)) / 4


def examples(number, noise):
    """Tokens and targets, both (number, TOKENS, FEATURES)."""
    kinds = rng.integers(KINDS, size=(number, TOKENS))
    values = rng.normal(size=(number, TOKENS, FEATURES))
    tokens = values
    if noise:  # one vector for all tokens of a kind
        values = np.take_along_axis(values[:, :KINDS], kinds[..., None], 1)
        tokens = values + noise * rng.normal(size=values.shape)
    hidden = np.einsum("ntd,ntdh->nth", values, inner[kinds]).clip(min=0)
    targets = np.einsum("nth,nthd->ntd", hidden, outer[kinds])
    return tokens + marks[kinds], targets


def dense(hidden):
    return keras.Sequential(
        [
            keras.layers.Dense(hidden, activation="relu"),
            keras.layers.Dense(FEATURES),
        ]
    )


experts = {"num_experts": KINDS, "intermediate_dim": 64, "activation": "relu"}
candidates = {  # name: (hidden features that it computes for a token, layer)
    "dense": (64, lambda: dense(64)),
    "dense, twice as wide": (128, lambda: dense(128)),
    "Expert Choice": (
        128,
        lambda: keras_moe.layers.ExpertChoiceMoE(
            capacity_factor=2.0, **experts
        ),
    ),
    "token choice": (
        64,
        lambda: keras_moe.layers.TokenChoiceMoE(
            top_k=1, capacity_factor=None, **experts
        ),
    ),
    "Soft MoE": (  # 8 slots for 32 tokens
        16,
        lambda: keras_moe.layers.SoftMoE(slots_per_expert=1, **experts),
    ),
}


def compare(noise):
    """Train each layer alone, and print its error on other examples."""
    training, validation = examples(3200, noise), examples(500, noise)
    for name, (cost, layer) in candidates.items():
        keras.utils.set_random_seed(0)
        tokens = keras.Input((TOKENS, FEATURES))
        model = keras.Model(tokens, layer()(tokens))
        model.compile("adam", "mse")
        model.optimizer.learning_rate = 1e-2
        model.fit(*training, batch_size=64, epochs=EPOCHS, verbose=0)
        error = model.evaluate(*validation, verbose=0) / validation[1].var()
        print(f"{name:<21} {cost:4} hidden features, error {error:.0%}")


print("each token has its own target")
compare(noise=0)
print("\ntokens of one kind are noisy copies of one vector")
compare(noise=2)

# %% [markdown]
# The error is a share of the targets' variance.
#
# In the first task parameters are missing: one network must compute eight
# functions. With hard routers an expert learns the function of one kind. Token
# choice computes as much as the narrow dense MLP and has a fraction of its
# error. Soft MoE does worse than the dense MLP: its experts read weighted means
# of tokens, and a mean of unrelated tokens says little about each token.
#
# In the second task information is missing: one noisy token says little about
# the vector. An expert of a hard router reads each token alone and cannot know
# more. A slot of Soft MoE is a weighted mean of all tokens of an example, and
# the mean over the tokens of one kind has less noise. Soft MoE is best here,
# with a quarter of the narrow dense MLP's work. Patches of an image resemble
# this task: many patches show nearly the same.

# %% [markdown]
# ## In your own model
#
# - The callback `diagnostics.RouterMonitor(x)` logs the four numbers after each
#   epoch of `fit`, for `History` and TensorBoard.
# - `visualize.report(model, batch, "report.html")` writes one page with these
#   pictures for each router.
#
# ## Exercises
#
# 1. Remove an expert: set its weights in `layer.experts.down` to zero, where
#    `layer` is `plans.layers[path]`. Which class loses most accuracy? Do the
#    pictures of that class show this expert?
# 2. Give Expert Choice a `capacity_factor` of 2. How many tokens are still
#    dropped?
# 3. Permute the patches of an image. Does the load of the experts change?

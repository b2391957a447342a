# %% [markdown]
# # 5. Convert and publish a checkpoint
#
# The papers' codes write checkpoints in formats of their own. A *preset* is a
# folder that holds a model whole: its architecture, preprocessing, weights, and
# a checksum of each file. This guide turns a checkpoint of google-research/vmoe
# into a preset, holds it against what vmoe's own code computed, sees what
# happens to a damaged file, and puts the preset on the Hugging Face Hub.
#
# It takes less than half a minute on one core of a CPU.

# %% [markdown]
# The converters are in the repository, not in the package. So this guide needs
# a clone, and is started in its folder `guides/`.

# %% tags=["skip-execution"]
# %pip install -q -e "..[jax,conversion]"

# %%
import os

# Before Keras is imported. "torch" and "tensorflow" do as well.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tensors are small; several threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# %%
import pathlib
import tempfile

import numpy as np

import keras_moe
from conversion import convert
from conversion import vmoe
from keras_moe import models

GOLDEN = pathlib.Path(keras_moe.__file__).parent.parent / "tests" / "golden"
scratch = tempfile.TemporaryDirectory()  # for all that is written here
folder = pathlib.Path(scratch.name)

# %% [markdown]
# ## A checkpoint
#
# The tests of this project keep small checkpoints that vmoe's trainer wrote,
# with its own code and random weights: a Soft MoE of two blocks for images of
# 16 x 16 pixels. Its arrays lie in several files, as those of a large model.

# %%
checkpoint = GOLDEN / "ckpt" / "G_vmoe_soft_trainstate_sharded" / "ckpt_2"
for path in sorted(checkpoint.parent.iterdir()):
    print(f"{path.stat().st_size:>8,} bytes  {path.name}")

# %% [markdown]
# ## Convert it
#
# What the shapes tell is deduced and printed; what they do not tell is asked
# for by the name of an option. Every array is used exactly once, or nothing is
# written. `verify` names a file with images and the logits that vmoe's code
# computed of them.

# %%
preset = folder / "soft_moe_tiny"
expected = GOLDEN / "F1_soft_gap_qknorm_learned.npz"
convert.convert_vmoe(checkpoint, preset, vmoe.Options(), verify=expected)

# %% [markdown]
# The same on the command line, in the clone:
#
# ```sh
# python -m conversion vmoe path/to/ckpt_2 soft_moe_tiny --verify expected.npz
# python -m conversion mot hf://organisation/name my_preset
# python -m conversion llm-random 100.pt my_preset --model-type gpt …
# ```
#
# ## What a preset holds
#
# `keras_moe.json` records the size and checksum of every file, and
# `conversion.json` what the preset was made of.

# %%
for path in sorted(preset.iterdir()):
    print(f"{path.stat().st_size:>8,} bytes  {path.name}")

# %%
classifier = models.MoEViTImageClassifier.from_preset(str(preset))
with np.load(expected) as arrays:
    images, wanted = arrays["images"], arrays["logits_f32_dispatch"]
# These images are as the backbone reads them: nothing to preprocess.
classifier.preprocessor = None
logits = classifier.predict(images, verbose=0)
print("largest difference from vmoe's logits", abs(logits - wanted).max())

# %% [markdown]
# A file that was cut short, or altered on its way, is an error that names it.
# It is not a model with a random head.

# %%
damaged = preset / "task.weights.h5"
whole = damaged.read_bytes()
damaged.write_bytes(whole[:-1])
try:
    models.MoEViTImageClassifier.from_preset(str(preset))
except ValueError as error:
    print(str(error).replace(str(folder), "…"))
_ = damaged.write_bytes(whole)

# %% [markdown]
# ## Publish it
#
# Give a repository of your own, log in with `hf auth login`, and run this
# again. While there is no name, nothing leaves your computer.

# %%
# Such as "organisation/soft_moe_tiny".
REPOSITORY = os.environ.get("KERAS_MOE_GUIDE_REPOSITORY")

# %%
CARD = """\
---
library_name: keras
pipeline_tag: image-classification
tags: [keras, mixture-of-experts]
---
# A tiny Soft MoE

Random weights, converted from a checkpoint of google-research/vmoe.

    from keras_moe import models
    classifier = models.MoEViTImageClassifier.from_preset("hf://NAME")
"""
if REPOSITORY is None:
    print("No repository is named: nothing was uploaded.")
else:
    from huggingface_hub import HfApi

    (preset / "README.md").write_text(CARD.replace("NAME", REPOSITORY))
    hub = HfApi()
    hub.create_repo(REPOSITORY, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=REPOSITORY,
        folder_path=preset,
        commit_message="Add a converted checkpoint",
    )
    # The whole repository is fetched, and each file held to its checksum.
    handle = f"hf://{REPOSITORY}@{commit.oid}"
    published = models.MoEViTImageClassifier.from_preset(handle)
    published.preprocessor = None
    again = published.predict(images, verbose=0)
    print(f"{handle} says the same: {np.array_equal(again, logits)}")

# %% [markdown]
# Models that this project trains are published by `python -m zoo publish NAME
# --repo ORGANISATION/NAME`. It measures the model again first and holds it to
# the record; without `--yes` it only shows what the repository would get.
#
# ## Exercises
#
# 1. Convert `G_vmoe_ec_params_single`. Which question does the converter ask,
#    and why can shapes not answer it? (The error names the option, a field of
#    `vmoe.Options`.)
# 2. `MoTCausalLM.from_preset("hf://organisation/name")` reads a repository in
#    the published `mot` format without a conversion. What does a preset have
#    that it has not?
# 3. Fine-tune the classifier for a new task: `from_preset(…, num_classes=5)`
#    starts a new head. Save it with `save_to_preset` and publish that.

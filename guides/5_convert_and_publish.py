# %% [markdown]
# # 5. Convert and publish a checkpoint
#
# The codes of the papers write checkpoints in their own formats. A *preset* is
# a folder with a whole model: its architecture, preprocessing and weights, and
# a checksum of each file. This guide converts a checkpoint of
# google-research/vmoe to a preset, compares its logits with those of vmoe's
# code, shows the error for a damaged file, and publishes the preset on the
# Hugging Face Hub.
#
# The converters are in the repository, not in the package, so this guide needs
# a clone. It takes about half a minute on one core of a CPU.

# %% tags=["setup"]
EXTRAS = "jax,conversion"

# %%
import os
import pathlib
import tempfile

import numpy as np

import keras_moe
from conversion import convert
from conversion import vmoe
from keras_moe import models

GOLDEN = pathlib.Path(keras_moe.__file__).parent.parent / "tests" / "golden"
scratch = tempfile.TemporaryDirectory()  # for all files of this guide
folder = pathlib.Path(scratch.name)

# %% [markdown]
# ## A checkpoint
#
# The repository has small checkpoints for its tests. This one was written by
# vmoe's trainer: a Soft MoE of two blocks with random weights, for images of 16
# x 16 pixels. Its arrays are in several files, like those of a large model.

# %%
checkpoint = GOLDEN / "ckpt" / "G_vmoe_soft_trainstate_sharded" / "ckpt_2"
for path in sorted(checkpoint.parent.iterdir()):
    print(f"{path.stat().st_size:>8,} bytes  {path.name}")

# %% [markdown]
# ## Convert it
#
# The converter deduces options from the shapes of the arrays and prints them.
# An error names each option that shapes do not determine. The converter writes
# a preset only if it used every array exactly once. `verify` names a file with
# images and the logits of vmoe's code for them.

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
# `keras_moe.json` records the size and checksum of every file,
# `conversion.json` the source and the options of the conversion.

# %%
for path in sorted(preset.iterdir()):
    print(f"{path.stat().st_size:>8,} bytes  {path.name}")

# %%
classifier = models.MoEViTImageClassifier.from_preset(str(preset))
with np.load(expected) as arrays:
    images, reference = arrays["images"], arrays["logits_f32_dispatch"]
classifier.preprocessor = None  # the images are preprocessed already
logits = classifier.predict(images, verbose=0)
print("largest difference from vmoe's logits", abs(logits - reference).max())

# %% [markdown]
# A truncated or altered file raises an error with the name of the file. It
# never gives a model with random weights.

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
# To publish, log in with `hf auth login`, set `REPOSITORY_ID` to a repository
# of your own, and run the next two cells. Without a name nothing is uploaded.

# %%
# Such as "organisation/soft_moe_tiny".
REPOSITORY_ID = os.environ.get("KERAS_MOE_GUIDE_REPOSITORY")

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
if REPOSITORY_ID is None:
    print("REPOSITORY_ID has no name: nothing was uploaded.")
else:
    from huggingface_hub import HfApi

    (preset / "README.md").write_text(CARD.replace("NAME", REPOSITORY_ID))
    hub = HfApi()
    hub.create_repo(REPOSITORY_ID, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=REPOSITORY_ID,
        folder_path=preset,
        commit_message="Add a converted checkpoint",
    )
    # This fetches the repository and compares each file with its checksum.
    handle = f"hf://{REPOSITORY_ID}@{commit.oid}"
    published = models.MoEViTImageClassifier.from_preset(handle)
    published.preprocessor = None
    again = published.predict(images, verbose=0)
    print(f"{handle} gives the same logits: {np.array_equal(again, logits)}")

# %% [markdown]
# `python -m zoo publish NAME --repo ORGANISATION/NAME` publishes the models
# that this project trained. It measures the model again first and compares the
# result with the record. Without `--yes` it only shows what it would upload.
#
# ## Exercises
#
# 1. Convert `G_vmoe_ec_params_single`. Which option does the converter need,
#    and why do the shapes not determine it? (The error names a field of
#    `vmoe.Options`.)
# 2. `MoTCausalLM.from_preset("hf://organisation/name")` reads a repository in
#    the published `mot` format without a conversion. Which files does a preset
#    have in addition?
# 3. Fine-tune the classifier for a new task: `from_preset(…, num_classes=5)`
#    starts a new head. Save the result with `save_to_preset` and publish it.

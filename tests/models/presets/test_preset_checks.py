"""Presets that say one thing and hold another are refused before they load."""

import json
import shutil

import h5py
import keras_hub
import numpy as np
import pytest

from keras_moe import models
from keras_moe.models.checkpoints import weight_files
from keras_moe.models.presets import manifest as manifests
from tests.models import language_support
from tests.models.language.test_masked_lm import make_masked
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import randomize

pytestmark = pytest.mark.once

MAKERS = {
    "image": lambda: make_classifier("soft", pixels=True),
    "text": language_support.make_causal,
    "masked": make_masked,
}
# Everything that reads a preset, by the kind of the preset.
READERS = {
    "image": [
        models.MoEViTImageClassifier,
        models.MoEViTBackbone,
        models.MoEViTImageClassifierPreprocessor,
        models.MoEViTImageConverter,
    ],
    "text": [
        models.MoTCausalLM,
        models.MoTBackbone,
        models.MoTCausalLMPreprocessor,
        models.MoTTokenizer,
    ],
    "masked": [models.MoTMaskedLM, models.MoTMaskedLMPreprocessor],
}
ALL = [(kind, cls) for kind, classes in READERS.items() for cls in classes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for kind, make in MAKERS.items():
        randomize(make()).save_to_preset(folder / kind)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """Copies of the presets, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "presets")


def refused(cls, folder, *texts, **arguments):
    with pytest.raises(ValueError) as raised:
        cls.from_preset(folder, **arguments)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# === The manifest ===


@pytest.mark.parametrize("kind, cls", ALL)
def test_every_reader_holds_files_to_the_manifest(kind, cls, copy):
    folder = copy / kind
    cls.from_preset(folder)
    for name in manifests.read_manifest(folder):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(cls, folder, f"{name} of preset", "SHA-256")
        path.write_bytes(content)


@pytest.mark.parametrize("kind, cls", ALL)
def test_a_manifest_lists_all_that_is_read(kind, cls, copy):
    folder = copy / kind
    manifest = folder / manifests.MANIFEST
    whole = manifest.read_text()
    for name in manifests.read_manifest(folder):
        edit(manifest, lambda content, name=name: content["files"].pop(name))
        refused(cls, folder, f"holds {name}, which its manifest does not list")
        manifest.write_text(whole)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "audio_converter.json", "model_00001.weights.h5"],
)
def test_a_file_more_that_a_loader_would_read(name, copy):
    (copy / "image" / name).write_text("{}")
    refused(models.MoEViTBackbone, copy / "image", f"holds {name}, which")


def test_others_files_do_not_matter(copy):
    folder = copy / "text"
    for name in ("notes.json", "assets/picture.png", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    models.MoTCausalLM.from_preset(folder)


def test_a_configuration_by_another_name(copy):
    folder = copy / "text"
    shutil.copy(folder / "tokenizer.json", folder / "other.json")
    for how in ((["other.json"], {}), ([], {"config_file": "other.json"})):
        with pytest.raises(ValueError, match=r"holds other\.json, which its"):
            models.MoTTokenizer.from_preset(folder, *how[0], **how[1])


PARTS = {
    "soft_moe_vit_tiny_fashion_mnist": READERS["image"],
    "mot_tiny_shakespeare": READERS["text"],
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_know_the_names_of_presets(name):
    for cls in PARTS[name]:
        assert name in cls.presets
        assert isinstance(cls.from_preset(name, **small(cls)), cls)
    others = [
        cls for n, classes in PARTS.items() if n != name for cls in classes
    ]
    assert not [cls for cls in others if name in cls.presets]
    assert name not in models.MoTMaskedLMPreprocessor.presets


def small(cls):
    """No weights, where there are any."""
    parts = (models.MoEViTBackbone, keras_hub.models.Task, models.MoTBackbone)
    return {"load_weights": False} if issubclass(cls, parts) else {}


# === Weights ===

WEIGHTS = {"model.weights.h5": models.MoEViTBackbone, "task.weights.h5": None}


def spoil(path, change):
    """Change one weight of a file, and have the manifest say so."""
    with h5py.File(path, "a") as file:
        found = []

        def collect(name, item):
            if isinstance(item, h5py.Dataset) and weight_files.is_weight(name):
                found.append(name)

        file.visititems(collect)
        name = found[0]
        array = file[name][()]
        del file[name]
        change(file, name, array)
    manifests.write_manifest(path.parent)


def put(value):
    def change(file, name, array):
        array.flat[-1] = value
        file[name] = array

    return change


CHANGES = {
    "nan": (put(np.nan), "must hold finite numbers"),
    "inf": (put(-np.inf), "must hold finite numbers"),
    "float16": (
        lambda file, name, array: file.create_dataset(
            name, data=array.astype("float16")
        ),
        "must hold numbers of float32, as config.json beside it says",
    ),
    "int32": (
        lambda file, name, array: file.create_dataset(
            name, data=array.astype("int32")
        ),
        "must hold numbers of float32, as config.json beside it says",
    ),
    "nothing stored": (
        lambda file, name, array: file.create_dataset(
            name, array.shape, "float32", chunks=True
        ),
        "must store all numbers of its arrays itself",
    ),
    "another file": (
        lambda file, name, array: file.create_dataset(
            name, array.shape, "float32", external=[("/etc/hostname", 0, 9999)]
        ),
        "must store all numbers of its arrays itself",
    ),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_cannot_be_right(how, name, copy):
    change, says = CHANGES[how]
    spoil(copy / "image" / name, change)
    refused(models.MoEViTImageClassifier, copy / "image", name, says)
    base = keras_hub.models.ImageClassifier
    refused(base, str(copy / "image"), name, says)


@pytest.mark.parametrize("how", ["nan", "nothing stored"])
def test_weights_in_several_files(how, tmp_path):
    folder = tmp_path / "shards"
    model = randomize(make_backbone())
    model.save_to_preset(folder, max_shard_size=4e-6)
    change, says = CHANGES[how]
    first = sorted(folder.glob("*.weights.h5"))[0]
    spoil(first, change)
    refused(models.MoEViTBackbone, folder, first.name, says)
    spoil(first, lambda file, name, array: None)
    refused(models.MoEViTBackbone, folder, "must hold", "arrays for this model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_dtypes_that_are_declared(dtype, tmp_path):
    backbone = randomize(make_backbone("soft", dtype=dtype))
    backbone.save_to_preset(tmp_path / "half")
    models.MoEViTBackbone.from_preset(tmp_path / "half")
    spoil(tmp_path / "half" / "model.weights.h5", put(np.float32(1)))
    if dtype == "bfloat16":
        return
    spoil(tmp_path / "half" / "model.weights.h5", put(np.inf))
    refused(models.MoEViTBackbone, tmp_path / "half", "finite numbers")


# === Configurations of more than the files hold ===

BIG = 10**9
HUGE = {
    "image": [
        {"num_layers": 10**7, "moe_layers": [1]},
        {"hidden_dim": BIG},
        {"mlp_dim": BIG},
        {"image_shape": [4 * 10**5, 4 * 10**5, 3]},
        {"patch_size": 10**6, "image_shape": [10**6, 10**6, 3]},
        {"router_options": {"num_experts": BIG, "slots_per_expert": 1}},
        {"router_options": {"num_experts": 1, "slots_per_expert": BIG}},
        {"router_options": {"num_experts": 1, "capacity_factor": 1.0 * BIG}},
        {
            "positions": "sincos2d",
            "image_shape": [4 * 10**5, 4 * 10**5, 3],
        },
    ],
    "text": [
        {"num_layers": 10**7, "moe_layers": [0]},
        {"vocabulary_size": BIG},
        {"max_sequence_length": BIG},
        {"head_dim": BIG},
        {"router_options": {"num_experts": 2, "intermediate_dim": BIG}},
    ],
}
TASK = [{"num_classes": BIG}, {"representation_size": BIG}]


@pytest.mark.parametrize("file", ["config.json", "task.json"])
@pytest.mark.parametrize(
    "kind, change", [(k, c) for k, some in HUGE.items() for c in some]
)
def test_sizes_that_the_weights_do_not_have(kind, change, file, copy):
    """The error comes before anything of that size is made."""
    folder = copy / kind

    def enlarge(config):
        if file == "task.json":
            config = config["config"]["backbone"]
        config["config"].update(change)

    edit(folder / file, enlarge)
    manifests.write_manifest(folder)
    classes = READERS[kind][: 2 if file == "config.json" else 1]
    for cls in classes:
        for load in (True, False):
            refused(cls, folder, file, "weight files", load_weights=load)


@pytest.mark.parametrize("change", TASK)
def test_a_head_that_the_weights_do_not_have(change, copy):
    folder = copy / "image"
    edit(folder / "task.json", lambda config: config["config"].update(change))
    manifests.write_manifest(folder)
    refused(models.MoEViTImageClassifier, folder, "task.json", "weight files")
    # A new head is the user's own wish.
    if "num_classes" in change:
        model = models.MoEViTImageClassifier.from_preset(folder, num_classes=2)
        assert model.num_classes == 2

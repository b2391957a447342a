"""JSON of presets that is none: an error that names the file."""

import json
import shutil

import keras
import keras_hub
import pytest

from keras_moe import files
from keras_moe import models
from keras_moe.models.presets import manifest
from tests.conversion import tiny

pytestmark = pytest.mark.once

IMAGE = models.MoEViTImageClassifier
TEXT = models.MoTCausalLM
# Readers by kind; each reads the whole folder's JSON.
READERS = {
    "image": [IMAGE, models.MoEViTBackbone, models.MoEViTImageConverter],
    "text": [TEXT, models.MoTBackbone, models.MoTTokenizer],
}
FILES = {
    "image": [
        "config.json",
        "task.json",
        "metadata.json",
        "preprocessor.json",
        "image_converter.json",
    ],
    "text": ["config.json", "task.json", "metadata.json", "tokenizer.json"],
}
CONTENTS = {
    "null": lambda text: b"null",
    "a list": lambda text: b"[1]",
    "deep": lambda text: b'{"a":' * 100_000,
    "closed and deep": lambda text: b"[" * 500 + b"]" * 500,
    "utf-16": lambda text: text.encode("utf-16"),
    "cut": lambda text: text[: len(text) // 2].encode(),
    "empty": lambda text: b"",
    "latin": lambda text: text.encode() + "é".encode("latin-1"),
    "twice": lambda text: b'{"a": 1, "a": 2}',
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for kind in READERS:
        tiny.preset(kind).save_to_preset(folder / kind)
        (folder / kind / manifest.MANIFEST).unlink()
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "presets")


def refused(cls, folder, name, **arguments):
    with pytest.raises(files.UnreadableFile) as raised:
        cls.from_preset(folder, **arguments)
    assert name in str(raised.value), str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("how", CONTENTS)
@pytest.mark.parametrize(
    "kind, name", [(k, name) for k, names in FILES.items() for name in names]
)
def test_without_a_manifest(kind, name, how, copy):
    path = copy / kind / name
    path.write_bytes(CONTENTS[how](path.read_text()))
    for cls in READERS[kind]:
        refused(cls, copy / kind, str(path))


@pytest.mark.parametrize("how", CONTENTS)
def test_manifests(how, copy):
    path = copy / "image" / manifest.MANIFEST
    manifest.write_manifest(copy / "image")
    path.write_bytes(CONTENTS[how](path.read_text()))
    for call in (
        lambda: IMAGE.from_preset(copy / "image"),
        lambda: tiny.preset("image").save_to_preset(copy / "image"),
    ):
        with pytest.raises(manifest.DamagedFile, match=str(path)):
            call()


ENTRIES = [
    {"format": True},
    {"format": "1"},
    {"format": None},
    {"files": None},
    {"files": [1]},
    {"files": {"config.json": None}},
    {"files": {"config.json": {"bytes": 1.5, "sha256": "0" * 64}}},
    {"files": {"config.json": {"bytes": 1, "sha256": "text"}}},
    {"files": {"a" * 300: {"bytes": 1, "sha256": "0" * 64}}},
]


@pytest.mark.parametrize("changes", ENTRIES)
def test_contents_of_a_manifest(changes, copy):
    path = copy / "image" / manifest.MANIFEST
    manifest.write_manifest(copy / "image")
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    refused(IMAGE, copy / "image", str(path))


# Right as JSON, wrong as what it describes: (kind, file, place, value).
VALUES = [
    ("image", "config.json", ["class_name"], 3),
    ("image", "config.json", ["config"], None),
    ("image", "config.json", ["registered_name"], "keras_moe>None"),
    ("image", "config.json", ["config", "dtype"], 3),
    ("image", "config.json", ["config", "num_heads"], None),
    ("image", "task.json", ["registered_name"], None),
    ("image", "task.json", ["config", "num_classes"], [3]),
    ("image", "task.json", ["config", "backbone"], 3),
    ("image", "task.json", ["config", "backbone", "config"], []),
    ("image", "task.json", ["config", "pooling"], {"a": 1}),
    ("image", "image_converter.json", ["config", "image_size"], "x"),
    ("text", "config.json", ["config", "hidden_dim"], float("nan")),
    ("text", "config.json", ["config", "router_options"], [1]),
    ("text", "task.json", ["config", "preprocessor", "config"], 3),
    ("text", "tokenizer.json", ["config", "unsplittable_tokens"], [[1]]),
    ("text", "assets/tokenizer/vocabulary.json", ["a"], 2**40),
    ("text", "assets/tokenizer/vocabulary.json", ["a"], 1),
    ("text", "assets/tokenizer/vocabulary.json", ["a"], None),
]


@pytest.mark.parametrize("kind, name, place, value", VALUES)
def test_values(kind, name, place, value, copy):
    path = copy / kind / name
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    cls = {
        "config.json": READERS[kind][1],
        "image_converter.json": models.MoEViTImageConverter,
        "tokenizer.json": models.MoTTokenizer,
    }.get(name, READERS[kind][0])
    refused(cls, copy / kind, name)


MERGES = ["a", "a b c", "a x", "a b\na b", "\udc80"]


@pytest.mark.parametrize("rules", MERGES)
def test_merge_rules(rules, copy):
    path = copy / "text" / "assets" / "tokenizer" / "merges.txt"
    path.write_text(rules, "utf-8", "surrogateescape")
    for cls in (TEXT, models.MoTTokenizer):
        refused(cls, copy / "text", str(path))


def test_arguments_of_the_caller_are_not_the_files(copy):
    """Errors about them name them, as before, and no file."""
    for arguments, match in (
        ({"num_classes": 0}, "^num_classes must be"),
        ({"dropout": "much"}, "^dropout must be"),
        ({"image_shape": (4, 4, 3)}, "^image_shape must have 1 channels"),
        ({"nonsense": 1}, "has no argument nonsense"),
    ):
        with pytest.raises(ValueError, match=match) as raised:
            IMAGE.from_preset(copy / "image", **arguments)
        assert not isinstance(raised.value, files.UnreadableFile)


def test_metadata_name_tasks_of_kerashub(saved):
    wanted = {"image": ["ImageClassifier"], "text": ["CausalLM", "MaskedLM"]}
    for kind, tasks in wanted.items():
        metadata = json.loads((saved / kind / "metadata.json").read_text())
        assert metadata["tasks"] == tasks
        assert metadata["parameter_count"] > 0


def test_a_class_that_keras_does_not_know_is_written(tmp_path):
    class Mine(models.MoEViTBackbone):
        pass

    config = tiny.preset("image").backbone.get_config()
    Mine(**config).save_to_preset(tmp_path / "mine")
    metadata = json.loads((tmp_path / "mine" / "metadata.json").read_text())
    assert metadata["tasks"] == []


def test_a_configuration_of_no_class(copy):
    @keras.saving.register_keras_serializable("tests")
    def function():
        pass

    path = copy / "image" / "config.json"
    config = json.loads(path.read_text())
    config["registered_name"] = "tests>function"
    path.write_text(json.dumps(config))
    refused(models.MoEViTBackbone, copy / "image", "config.json")


def test_another_class_reads_no_such_preset(copy):
    with pytest.raises(ValueError, match="Bert"):
        keras_hub.models.BertBackbone.from_preset(str(copy / "image"))
    for cls, backbone in (
        (models.MoTBackbone, "MoTBackbone"),
        (models.TextTransformerBackbone, "TextTransformerBackbone"),
        (models.MoTCausalLM, "MoTBackbone"),
        (models.MoTMaskedLM, "MoTBackbone"),
        (models.MoETwoTower, "MoETwoTowerBackbone"),
    ):
        text = (
            f"^preset must be one of {backbone} for {cls.__name__}; "
            "received one of MoEViTBackbone, "
        )
        with pytest.raises(ValueError, match=text):
            cls.from_preset(copy / "image")

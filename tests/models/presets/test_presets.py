"""Presets: what is written, and that nothing spoilt is read."""

import json
import shutil

import h5py
import huggingface_hub
import keras
import keras_hub
import numpy as np
import pytest

from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import list_presets
from keras_moe.models.checkpoints import weight_files
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import finding
from keras_moe.models.presets import manifest as manifests
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import randomize

WEIGHTS = ["model.weights.h5", "task.weights.h5"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    classifier = randomize(make_classifier("dense", pixels=True))
    classifier.save_to_preset(folder)
    return folder, classifier


@pytest.fixture
def preset(saved, tmp_path):
    """A copy of the preset, to be spoilt."""
    return shutil.copytree(saved[0], tmp_path / "tiny")


def load(folder, **arguments):
    return MoEViTImageClassifier.from_preset(folder, **arguments)


def refused(folder, *texts, cls=MoEViTImageClassifier):
    with pytest.raises(ValueError) as raised:
        cls.from_preset(folder)
    message = str(raised.value)
    for text in texts:
        assert text in message, message


def read(folder):
    return json.loads((folder / manifests.MANIFEST).read_text())


def rewrite(folder, **fields):
    text = json.dumps({**read(folder), **fields})
    (folder / manifests.MANIFEST).write_text(text)


# === The manifest ===


def test_manifest(preset):
    names = {path.name for path in preset.iterdir()}
    assert {"config.json", "task.json", "preprocessor.json", *WEIGHTS} < names
    manifest = read(preset)
    assert set(manifest["files"]) == names - {manifests.MANIFEST}
    assert manifest["format"] == manifests.FORMAT
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (preset / name).stat().st_size
        assert entry["sha256"] == manifests.digest(preset / name)
    load(preset)


def test_a_card_may_be_edited(preset):
    (preset / "README.md").write_text("# A model")
    manifests.write_manifest(preset)
    assert "README.md" not in read(preset)["files"]
    (preset / "README.md").write_text("# A better text about a model")
    load(preset)


@pytest.mark.parametrize("name", ["config.json", "task.json", *WEIGHTS])
def test_a_missing_file(preset, name):
    (preset / name).unlink()
    refused(preset, f"preset {preset} lacks its file {name}, which")


@pytest.mark.parametrize("name", ["config.json", *WEIGHTS])
def test_a_file_cut_short(preset, name):
    content = (preset / name).read_bytes()
    (preset / name).write_bytes(content[:-1])
    size = len(content)
    refused(preset, f"{name} of", f"must have {size} bytes; it has {size - 1}.")


@pytest.mark.parametrize("name", ["config.json", *WEIGHTS])
def test_an_altered_byte(preset, name):
    content = bytearray((preset / name).read_bytes())
    content[len(content) // 2] ^= 1
    (preset / name).write_bytes(content)
    refused(preset, f"{name} of preset", "SHA-256", "checksum recorded for it")


def test_a_weight_file_more(preset):
    shutil.copy(preset / WEIGHTS[0], preset / "other.weights.h5")
    refused(preset, "holds other.weights.h5, which its manifest does not list")


def test_a_newer_format(preset):
    # Whose entries may look different, too.
    rewrite(preset, format=2, version="9.0", files={"a": "b"})
    refused(preset, "has format 2, written by keras_moe 9.0", "Upgrade")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"format": 1}', '{"format": "x", "files": {}}']
    + ['{"format": 1, "files": {"a": {}}}', '{"format": 1, "files": {"a": 3}}'],
)
def test_a_broken_manifest(preset, text):
    (preset / manifests.MANIFEST).write_text(text)
    refused(preset, f"{manifests.MANIFEST} ")


def test_a_backbone_is_checked_too(preset):
    (preset / WEIGHTS[0]).write_bytes(b"")
    refused(preset, "must have", "it has 0.", cls=MoEViTBackbone)


# === Folders of others, without a manifest ===


def test_no_manifest(preset, saved):
    (preset / manifests.MANIFEST).unlink()
    images = images_of()
    close(evaluate(load(preset), images), evaluate(saved[1], images), 0)


def arrays_of(path, change=None):
    """Names of the weights in a file, after a change to it."""
    found = []
    with h5py.File(path, "a") as file:
        file.visititems(
            lambda name, item: (
                found.append(name) if isinstance(item, h5py.Dataset) else None
            )
        )
        found = [n for n in found if not weight_files._NOT_A_WEIGHT.search(n)]
        if change is not None:
            change(file, found)
    return found


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("change", ["missing", "extra"])
def test_another_number_of_arrays(preset, name, change):
    (preset / manifests.MANIFEST).unlink()

    def spoil(file, found):
        if change == "missing":
            del file[found[0]]
        else:
            file[found[0] + "0"] = np.zeros(2)

    number = len(arrays_of(preset / name, spoil))
    there = number + (1 if change == "extra" else -1)
    text = f"{name} must hold {number} arrays for this model; it holds {there}."
    refused(preset, text)
    refused(str(preset), text, cls=keras_hub.models.ImageClassifier)


def test_a_weight_file_that_is_none(preset):
    (preset / manifests.MANIFEST).unlink()
    (preset / WEIGHTS[0]).write_bytes(b"not HDF5")
    refused(preset, f"{WEIGHTS[0]} is no whole HDF5 file")


def test_a_head_that_is_not_there(preset):
    (preset / manifests.MANIFEST).unlink()
    (preset / WEIGHTS[1]).unlink()
    refused(preset, f"lacks its file {WEIGHTS[1]}", "give num_classes")
    assert evaluate(load(preset, num_classes=4), images_of()).shape == (2, 4)


# === Names ===


@pytest.mark.parametrize(
    "name", ["soft_moe_nope", "./no/such/folder", "hg://a/b", "", 3, None]
)
def test_wrong_names(name):
    refused(name, "preset must be", "'hf://organisation/name'", f"{name!r}")


def test_presets_of_the_package():
    for name in catalogue.embedded():
        assert list_presets()[name]["places"]["embedded"] == name
        assert finding.resolve(name) == str(catalogue.FOLDER / name)
        manifests.check_manifest(catalogue.FOLDER / name)
        metadata = (catalogue.FOLDER / name / "metadata.json").read_text()
        tasks = json.loads(metadata)["tasks"]
        kinds = {"MoTCausalLM": ["CausalLM", "MaskedLM"], "MoETwoTower": []}
        kinds["MoEViTImageClassifier"] = ["ImageClassifier"]
        assert tasks == kinds[list_presets()[name]["model"]]


def test_handles_of_others_are_left_alone():
    for handle in ("kaggle://a/b/keras/c", "gs://a/b", "modelscope://a/b"):
        assert finding.resolve(handle) == handle


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_hugging_face(preset, saved, monkeypatch, revision):
    asked = []

    def snapshot_download(name, revision=None):
        asked.append((name, revision))
        return str(preset)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    handle = "hf://someone/tiny" + (f"@{revision}" if revision else "")
    images = images_of()
    close(evaluate(load(handle), images), evaluate(saved[1], images), 0)
    assert asked == [("someone/tiny", revision)]
    (preset / "config.json").write_text("{}")
    refused(handle, "config.json of preset")


# === Writing ===


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    backbone = make_backbone("dense")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match="must be new, empty or a preset"):
            backbone.save_to_preset(target)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("before", ["nothing", "empty", "preset"])
def test_replacing(preset, tmp_path, before):
    target = tmp_path / "more" / "model"
    if before != "nothing":
        target.mkdir(parents=True)
    if before == "preset":
        shutil.copytree(preset, target, dirs_exist_ok=True)
        (target / "README.md").write_text("# Old")
    backbone = randomize(make_backbone("soft"))
    backbone.save_to_preset(str(target))
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    assert not (target / "task.json").exists()
    loaded = MoEViTBackbone.from_preset(target)
    close(evaluate(loaded, images_of()), evaluate(backbone, images_of()), 0)


def test_nothing_is_left_half_written(preset, monkeypatch):
    content = {p.name: p.read_bytes() for p in preset.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", fail)
    for target in (preset, preset.parent / "new"):
        with pytest.raises(OSError, match="No space left"):
            make_classifier("dense").save_to_preset(target)
    assert [p.name for p in preset.parent.iterdir()] == ["tiny"]
    assert {p.name: p.read_bytes() for p in preset.iterdir()} == content


def test_shards(tmp_path):
    backbone = randomize(make_backbone())
    backbone.save_to_preset(tmp_path / "shards", max_shard_size=4e-6)
    names = {p.name for p in (tmp_path / "shards").glob("*.weights.h5")}
    assert len(names) > 1 and WEIGHTS[0] not in names
    loaded = MoEViTBackbone.from_preset(tmp_path / "shards")
    close(evaluate(loaded, images_of()), evaluate(backbone, images_of()), 0)
    (tmp_path / "shards" / max(names)).unlink()
    refused(tmp_path / "shards", "lacks its file", cls=MoEViTBackbone)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(12, 16, 3), (16, 16, 3)])
def test_half_precision(tmp_path, dtype, shape):
    """Half the bytes, and float32 again under the default policy."""
    full = randomize(make_classifier("dense"))
    half = make_classifier(backbone=make_backbone("dense", dtype=dtype))
    values = {w.path: keras.ops.convert_to_numpy(w) for w in full.weights}
    for weight in half.weights:
        weight.assign(values[weight.path])
    half.save_to_preset(tmp_path / "half")
    loaded = load(tmp_path / "half", image_shape=shape)
    assert {w.dtype for w in loaded.weights} == {"float32"}
    if shape == (12, 16, 3):
        images = images_of()
        close(evaluate(loaded, images), evaluate(full, images), 0.05)

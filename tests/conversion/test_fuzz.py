"""Files with random damage: an error that names the file, or what was saved.

Formats without check sums cannot tell a damaged number from another one. Of
them as many numbers may differ as bytes were changed in place.
"""

import pathlib
import shutil
import zlib

import keras
import numpy as np
import pytest

from conversion.errors import ConversionError
from keras_moe import files
from keras_moe import models
from keras_moe.models.presets import finding
from keras_moe.models.presets import manifest
from tests.conversion import mutations
from tests.conversion import tiny

pytestmark = pytest.mark.once

COUNT = 300  # mutations of each format
SEED = 0
MEGABYTES = 100  # that reading a damaged file of some kilobytes may take


@pytest.fixture
def bounded_memory():
    """Fail where the process had much more in memory than before."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():  # only Linux says it
        yield
        return
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # sets it back
    before = _peak(status)
    yield
    assert _peak(status) - before < MEGABYTES * 1e3


def _peak(status):
    """Kilobytes in memory at most."""
    (line,) = (x for x in status.read_text().split("\n") if "VmHWM" in x)
    return int(line.split()[1])


def fuzz(good, work, names, change, read, named, error):
    """Change one file after another, and read what it belongs to.

    Args:
        good: the folder with all files.
        work: a folder for a copy, in which one file is changed at a time.
        names: of the files that are changed, in the folder.
        change: (content, name, generator) → content, and how many numbers may
            differ.
        read: (folder, name of the changed file) → {name: array}.
        named: (folder, name) → texts, of which an error must have one.
        error: class of the errors.
    """
    wanted = {name: read(good, name) for name in names}
    shutil.copytree(good, work)
    wrong = []
    for number in range(COUNT):
        rng = np.random.default_rng([SEED, number])
        name = names[number % len(names)]
        content = (good / name).read_bytes()
        new, budget = change(content, name, rng)
        (work / name).write_bytes(new)
        try:
            found = read(work, name)
            hurt = mutations.hurt(found, wanted[name])
            if hurt > (budget or 0):
                wrong.append(f"{number} {name}: {hurt} numbers differ")
        except error as raised:
            if not any(text in str(raised) for text in named(work, name)):
                wrong.append(f"{number} {name}: it is not named: {raised}")
        # Whatever it is, it would reach a user.
        except Exception as raised:
            wrong.append(f"{number} {name}: {raised!r}")
        (work / name).write_bytes(content)
    assert not wrong, "\n".join(wrong)


# === Checkpoints ===


def in_bytes(content, name, rng):
    return mutations.of_bytes(content, rng)


def in_values(content, name, rng):
    """JSON by its values, anything else by its bytes."""
    if name.endswith((".json", "_METADATA", ".zarray")):
        return mutations.of_json(content, rng), None
    return mutations.of_bytes(content, rng)


def orbax_files(folder):
    """The metadata as often as all others together."""
    names = [
        p.relative_to(folder).as_posix()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "_METADATA"
    ]
    return [name for pair in zip(names, ["in/_METADATA"] * 99) for name in pair]


# write, read, source in the folder, files to change, how
FORMATS = {
    "index": (tiny.write_vmoe, tiny.read_vmoe, "in/ckpt", ["in/ckpt.index"]),
    "shards": (
        tiny.write_vmoe,
        tiny.read_vmoe,
        "in/ckpt",
        [f"in/ckpt.data-0000{i}-of-00002" for i in range(2)],
    ),
    "orbax": (tiny.write_orbax, tiny.read_vmoe, "in", orbax_files),
    "ocdbt": (
        lambda folder: tiny.write_orbax(folder, database=True),
        tiny.read_vmoe,
        "in",
        orbax_files,
    ),
    "safetensors": (
        tiny.write_mot,
        tiny.read_mot,
        "in",
        ["in/model.safetensors"],
    ),
    "mot": (
        tiny.write_mot,
        tiny.read_mot,
        "in",
        ["in/config.json", "in/vocab.json", "in/merges.txt"],
    ),
    "pt": (
        lambda folder: tiny.write_llm_random(folder / "2.pt"),
        tiny.read_llm_random,
        "in/2.pt",
        ["in/2.pt"],
    ),
    "old pt": (
        lambda folder: tiny.write_llm_random(folder / "2.pt", zipped=False),
        tiny.read_llm_random,
        "in/2.pt",
        ["in/2.pt"],
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_checkpoints(kind, tmp_path, bounded_memory):
    write, read, source, names = FORMATS[kind]
    write(tmp_path / "good" / "in")
    if callable(names):
        names = names(tmp_path / "good")
    fuzz(
        tmp_path / "good",
        tmp_path / "work",
        names,
        in_values,
        lambda folder, name: read(folder / source),
        lambda folder, name: [str(folder / source)],
        ConversionError,
    )


# === Presets ===

CLASSES = {"image": models.MoEViTImageClassifier, "text": models.MoTCausalLM}
BACKBONES = {"image": models.MoEViTBackbone, "text": models.MoTBackbone}
PARTS = {
    ("image", "preprocessor.json"): models.MoEViTImageClassifierPreprocessor,
    ("image", "image_converter.json"): models.MoEViTImageConverter,
    ("text", "preprocessor.json"): models.MoTCausalLMPreprocessor,
    ("text", "tokenizer.json"): models.MoTTokenizer,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for kind in CLASSES:
        model, rng = tiny.preset(kind), np.random.default_rng(1)
        for weight in model.weights:
            weight.assign(rng.standard_normal(weight.shape))
        model.save_to_preset(folder / kind)
    return folder


def values(model):
    """{path: array} of a model; nothing of what only prepares inputs."""
    weights = getattr(model, "weights", None) or ()
    return {w.path: keras.ops.convert_to_numpy(w) for w in weights}


@pytest.mark.parametrize("kind", CLASSES)
def test_configurations(kind, saved, tmp_path, monkeypatch, bounded_memory):
    """Without a manifest, whose check sums would refuse every change."""
    monkeypatch.setattr("tests.conversion.test_fuzz.COUNT", COUNT // 2)
    good = tmp_path / "good"
    shutil.copytree(saved / kind, good)
    (good / manifest.MANIFEST).unlink()
    names = sorted(
        path.relative_to(good).as_posix()
        for path in good.rglob("*")
        if path.suffix in (".json", ".txt")
    )

    def read(folder, name):
        cls = PARTS.get((kind, name), CLASSES[kind])
        if name in ("config.json", "metadata.json"):
            cls = BACKBONES[kind]
        return values(cls.from_preset(folder))

    fuzz(
        good,
        tmp_path / "work",
        names,
        in_values,
        read,
        lambda folder, name: [name],
        files.UnreadableFile,
    )


def test_manifests(saved, tmp_path, bounded_memory):
    """With them, no change of any file is read.

    Which of a file and its check sum is damaged cannot be known.
    """
    names = sorted(manifest.read_manifest(saved / "image"))

    def read(folder, name):
        finding.find(folder)
        if name == manifest.MANIFEST:
            return {}
        return {name: np.frombuffer((folder / name).read_bytes(), "uint8")}

    fuzz(
        saved / "image",
        tmp_path / "work",
        [name for other in names for name in (manifest.MANIFEST, other)],
        in_values,
        read,
        lambda folder, name: [name, *names],
        ValueError,  # of a format to come, too
    )


def test_weights(saved, tmp_path, bounded_memory):
    """Into a model that is there, as `from_preset` does, without a manifest.

    HDF5 has no check sums: numbers, their places and their dtype may be other
    ones, all of the size that the model has.
    """
    good = tmp_path / "good"
    shutil.copytree(saved / "image", good)
    (good / manifest.MANIFEST).unlink()
    model = CLASSES["image"].from_preset(good)

    def read(folder, name):
        if name == "task.weights.h5":
            model.load_task_weights(str(folder / name))
            return values(model)
        model.backbone.load_weights(str(folder / name))
        return values(model.backbone)

    def change(content, name, rng):
        return in_bytes(content, name, rng)[0], len(content)

    fuzz(
        good,
        tmp_path / "work",
        ["model.weights.h5", "task.weights.h5"],
        change,
        read,
        lambda folder, name: [name],
        files.UnreadableFile,
    )


def test_mutations_are_the_same_in_each_run():
    content = bytes(range(256)) * 4
    sums = [
        zlib.crc32(mutations.of_bytes(content, np.random.default_rng(i))[0])
        for i in range(20)
    ]
    again = [
        zlib.crc32(mutations.of_bytes(content, np.random.default_rng(i))[0])
        for i in range(20)
    ]
    assert sums == again and len(set(sums)) > 15

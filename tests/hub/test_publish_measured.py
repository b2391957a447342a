"""Publishing measures again: presets that ship, on small data in its format."""

import gzip
import json
import re

import numpy as np
import pytest

from keras_moe import samples
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import manifest
from zoo import recipe as recipes
from zoo.__main__ import main
from zoo.data import datasets
from zoo.measure import results
from zoo.publish import picture
from zoo.publish import table

pytestmark = pytest.mark.once

REPO = "someone/measured"
VISION = recipes.load("soft_moe_vit_tiny_fashion_mnist")
TEXT = recipes.load("mot_tiny_shakespeare")
RECORDED = {one.name: results.load(one.name) for one in (VISION, TEXT)}
VERSE = "To be, or not to be, that is the question. "


def idx(path, array):
    """Write an IDX file of bytes."""
    head = bytes([0, 0, 8, array.ndim])
    shape = np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + shape + array.astype("u1").tobytes()))


@pytest.fixture
def images(tmp_path):
    """A folder like the data set's, with 60 of the samples to measure on."""
    folder = tmp_path / "images"
    folder.mkdir()
    found, labels, _ = samples.fashion_mnist()
    for prefix, part in (("train", slice(0, 20)), ("t10k", slice(0, 300, 5))):
        idx(folder / f"{prefix}-images-idx3-ubyte.gz", found[part, ..., 0])
        idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels[part])
    return folder


@pytest.fixture
def plays(tmp_path):
    folder = tmp_path / "plays"
    folder.mkdir()
    for name in (*"ab", "the-tempest", "macbeth", "twelfth-night"):
        (folder / f"{name}.md").write_text(VERSE * 10)
    return folder


def record(recipe, figure):
    """Say that the preset has this figure."""
    known = RECORDED[recipe.name]
    preset = {**known["preset"], known["metric"]: figure}
    path = results.path_of(recipe.name)
    manifest.write_json(path, {**known, "preset": preset})


def publish(recipe, data, *options):
    given = ["publish", recipe.name, "--repo", REPO]
    main([*given, *(["--data", str(data)] if data else []), *options])


def refused(recipe, data):
    """The figure that was measured, which is not the recorded one."""
    with pytest.raises(SystemExit, match="Only what was measured") as raised:
        publish(recipe, data, "--yes")
    return float(re.search(r"is (\d\.\d+); recorded", str(raised.value))[1])


def test_an_image_preset(hub, records, images, capsys):
    record(VISION, 0.5)
    figure = refused(VISION, images)
    assert 0.7 < figure <= 1 and not hub.repos

    record(VISION, figure)
    publish(VISION, images, "--yes")
    files = hub.repos[REPO][-1]
    assert files[picture.NAME].startswith(b"\x89PNG")
    assert f"]({picture.NAME})".encode() in files["README.md"]
    folder = catalogue.FOLDER / VISION.name
    for name in manifest.read_manifest(folder):
        assert files[name] == (folder / name).read_bytes()
    listed = json.loads(table.CATALOGUE.read_text())[VISION.name]
    assert listed["places"] == {
        "embedded": VISION.name,
        "hub": f"hf://{REPO}",
    }
    capsys.readouterr()
    publish(VISION, images, "--yes")
    assert "It is there already." in capsys.readouterr().out
    assert len(hub.repos[REPO]) == 2


def test_a_language_model(hub, records, plays, capsys):
    record(TEXT, 8.0)
    figure = refused(TEXT, plays)
    assert 0 < figure < 8
    record(TEXT, figure)
    publish(TEXT, plays)
    said = capsys.readouterr().out
    assert f"bytes  {picture.NAME}" in said and "Nothing was uploaded" in said


def test_without_the_data_set(hub, records, tmp_path, monkeypatch):
    record(VISION, 0.9)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", str(tmp_path / "none"))
    monkeypatch.delenv(datasets.ENVIRONMENT, raising=False)
    with pytest.raises(SystemExit, match="must hold t.*--data FOLDER"):
        publish(VISION, None, "--yes")
    assert not hub.requests

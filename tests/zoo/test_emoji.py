"""Emoji: fetched whole, read, named, rendered and split."""

import sys

import numpy as np
import pytest

from tests.zoo import packages
from zoo.data import distortion
from zoo.data import emoji
from zoo.data import icons
from zoo.data import npm
from zoo.errors import DataError

pytestmark = pytest.mark.once
NOTO = emoji.STYLES["noto"]


def test_fetches_builds_and_reads(tmp_path, monkeypatch, capsys):
    made = packages.registry(tmp_path / "made", monkeypatch)
    packages.client(tmp_path / "bin", made, monkeypatch)
    # None is held out: of three names, none might be left.
    monkeypatch.setattr(emoji, "is_held_out", lambda name: name == "own thing")
    folder = tmp_path / "cache"
    path = emoji.build(folder, 32)
    assert sorted(p.suffix for p in folder.iterdir()) == [".npz"] + 7 * [".tgz"]
    found = emoji.emoji(folder, 32)
    train, (known, new) = found["train"], found["test"]
    # fxemoji, for validation, has no words of its own.
    assert train.names == ("pensive face", "red apple")
    assert train.tags == (("face", "sad"), ("apple", "fruit", "red"))
    assert train.labels.tolist() == 4 * [1, 0]
    assert found["validation"].labels.tolist() == [1, 0]
    assert known.labels.tolist() == [1, 0]
    assert new.names == ("own thing",) and new.labels.tolist() == [0]
    red, blue, green = train.images[0], train.images[1], new.images[0]
    assert (red == [255, 0, 0]).all()
    assert (blue[:, :16] == [0, 0, 255]).all() and (blue[:, 16:] == 255).all()
    # A wide drawing stands in the middle of white.
    assert (green[:8] == 255).all() and (green[24:] == 255).all()
    assert (green[8:24, :16] == [0, 255, 0]).all()

    before = path.read_bytes()
    monkeypatch.setenv("PATH", "")  # packages are fetched once
    emoji.build(folder, 32)
    again = emoji.emoji(folder, 32)["train"].images
    np.testing.assert_array_equal(again, train.images)
    assert len(path.read_bytes()) == len(before)
    installed = icons.renderer()
    assert installed.startswith("resvg-py ")
    for version in (None, installed, "resvg-py 0"):
        monkeypatch.setattr(icons, "renderer", lambda version=version: version)
        if version != "resvg-py 0":
            assert len(emoji.emoji(folder, 32)["train"].images) == 8
    with pytest.raises(DataError, match=f"by {installed}, and resvg-py 0 is"):
        emoji.emoji(folder, 32)
    monkeypatch.setattr(icons, "NAMES", icons.NAMES._replace(sha256="0"))
    with pytest.raises(DataError, match="was made of other packages"):
        emoji.emoji(folder, 32)


def test_a_package_that_cannot_be_fetched(tmp_path, monkeypatch):
    packages.client(tmp_path / "bin", tmp_path, monkeypatch)
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"not fetch .*noto@1\.2\.9: npm error"):
        npm.fetched(NOTO, folder)
    assert not list(folder.iterdir())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="npm, .* must be on PATH") as error:
        npm.fetched(NOTO, folder)
    assert f"put iconify-json-noto-1.2.9.tgz into {folder}" in str(error.value)


def test_a_package_of_another_checksum(tmp_path):
    path = tmp_path / NOTO.file
    path.write_bytes(b"other")
    with pytest.raises(DataError, match="must have the SHA-256") as error:
        npm.fetched(NOTO, tmp_path)
    assert str(path) in str(error.value) and NOTO.sha256 in str(error.value)


def test_packages_that_are_not_as_expected(tmp_path):
    path = tmp_path / "a.tgz"
    packages.names(path)
    names = icons.Names(path)
    with pytest.raises(DataError, match=r"must hold package/info\.json"):
        icons.icons(NOTO, path, names)
    packages.icon_set(path, "MIT")
    with pytest.raises(DataError, match="under Apache-2.0; it is under MIT"):
        icons.icons(NOTO, path, names)
    packages.icon_set(path, NOTO.licence, {"a": {"width": 4}})
    with pytest.raises(DataError, match=r"icons\.json .* it lacks 'body'"):
        icons.icons(NOTO, path, names)
    packages.package(path, {"icons.json": []})
    with pytest.raises(DataError, match=r"icons\.json must hold a JSON object"):
        npm.read_json(path, "icons.json")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="is no file of an npm package"):
        npm.read_json(path, "icons.json")


def test_missing_data_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv(emoji.ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataError, match="python -m zoo data emoji") as error:
        emoji.emoji()
    assert str(tmp_path / "emoji_64.npz") in str(error.value)
    with pytest.raises(DataError, match="one of 32, 48, 64; received 33"):
        emoji.build(tmp_path, 33)


@pytest.mark.parametrize(
    "module, package", [("resvg_py", "resvg-py"), ("PIL", "Pillow")]
)
def test_a_missing_package_is_named(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    icon = icons.Icon("a", (0.0, 0.0, 4.0, 4.0), "<path/>")
    with pytest.raises(ImportError, match=f"zoo.data.icons needs {package};"):
        icons.render(icon, 8)


def test_pixels_that_do_not_divide():
    images = np.zeros((1, 12, 12, 3), "u1")
    assert distortion.sharp(images, 4).shape == (1, 4, 4, 3)
    for pixels in (5, 24):
        with pytest.raises(DataError, match=f"divide 12, .* received {pixels}"):
            distortion.sharp(images, pixels)


def test_names_held_out_are_fixed():
    names = [f"name {number}" for number in range(1000)]
    held = [name for name in names if emoji.is_held_out(name)]
    assert held[:3] == ["name 1", "name 21", "name 24"]
    assert len(held) == 92

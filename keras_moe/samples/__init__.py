"""Real data that ships with the package, for demos and tests."""

import pathlib
import typing

import numpy as np

__all__ = [
    "FASHION_MNIST_CLASSES",
    "FOLDER",
    "Samples",
    "emoji",
    "fashion_mnist",
]

FOLDER = pathlib.Path(__file__).parent
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class Samples(typing.NamedTuple):
    """Images uint8 (n,H,W,C), labels int32 (n,), the names of the labels."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def fashion_mnist() -> Samples:
    """300 test images of Fashion-MNIST, the first 30 of each of ten classes.

    Images are uint8 (300,28,28,1), 0 is black; labels int32 (300,). No preset
    of this package was trained on them. Fashion-MNIST is Copyright 2017
    Zalando SE, MIT licence, which lies beside the file
    (https://github.com/zalandoresearch/fashion-mnist, arXiv 1708.07747).

    Example:

    >>> from keras_moe import samples
    >>> images, labels, classes = samples.fashion_mnist()
    >>> images.shape, classes[labels[0]]
    ((300, 28, 28, 1), 'T-shirt/top')
    """
    with np.load(FOLDER / "fashion_mnist.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    return Samples(images, labels.astype("int32"), FASHION_MNIST_CLASSES)


def emoji() -> Samples:
    """Drawings of Twemoji with their names: faces, animals, plants and food.

    Images are uint8 (n,32,32,3), on white; labels int32 (n,), each drawing's
    own; classes are the names, such as `"red apple"`. No preset of this
    package was trained on drawings of this style; the names are those of
    drawings in other styles that one was trained on. Twemoji is Copyright
    Twitter, Inc and other contributors, CC BY 4.0
    (https://github.com/jdecked/twemoji), names of emojibase-data, MIT licence;
    a notice lies beside the file.

    Example:

    >>> from keras_moe import samples
    >>> images, labels, names = samples.emoji()
    >>> images.shape[1:], "red apple" in names
    ((32, 32, 3), True)
    """
    with np.load(FOLDER / "emoji.npz", allow_pickle=False) as file:
        images, names = file["images"], tuple(file["names"].tolist())
    return Samples(images, np.arange(len(images), dtype="int32"), names)

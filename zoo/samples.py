"""The samples that ship with the package: how their files are made."""

import numpy as np

from keras_moe import samples
from zoo.data import datasets

EACH = 30  # images of each class


def first_of_each(labels, each=EACH):
    """Indices of the first `each` of every label, by label."""
    return np.concatenate(
        [np.flatnonzero(labels == k)[:each] for k in np.unique(labels)]
    )


def write(data_folder=None, path=samples.FOLDER / "fashion_mnist.npz"):
    """Write test images of Fashion-MNIST, the first of each class."""
    images, labels = datasets.fashion_mnist(data_folder)["test"]
    chosen = first_of_each(labels)
    np.savez_compressed(
        path, images=images[chosen], labels=labels[chosen].astype("u1")
    )
    return path

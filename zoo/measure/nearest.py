"""Names of drawings by the most similar drawing of the training data.

What similar pixels alone tell, to hold trained models against.
"""

import numpy as np
from tqdm import tqdm

from zoo.data import datasets
from zoo.data.distortion import sharp
from zoo.tasks.pairs import BATCH
from zoo.tasks.pairs import ranks
from zoo.tasks.pairs import recalls

NAME = "nearest_emoji"
PIXELS = 32


def compare(data_folder=None) -> dict:
    """Recall of the names of test drawings, by correlations of their pixels.

    A name fits a drawing as well as the most similar training drawing that
    has it: the correlation of all pixels, over places and colours.

    Args:
        data_folder: where the data set lies, see `zoo.data.datasets`.
    """
    parts = datasets.load("emoji", data_folder)
    train, (test, new) = parts["train"], parts["test"]
    known = _unit(train.images)
    best = np.full((len(test.labels), len(test.names)), -1.0, "float32")
    for start in tqdm(range(0, len(test.labels), BATCH), unit="batch"):
        rows = slice(start, start + BATCH)
        products = _unit(test.images[rows]) @ known.T
        # Of each name, the largest; ufuncs take repeated places one by one.
        np.maximum.at(best[rows].T, train.labels, products.T)
    found = recalls(ranks(best, test.labels))
    return {
        **found,
        "pixels": PIXELS,
        "images": len(test.labels),
        "names": len(test.names),
        "new_names": len(new.names),
        "training_drawings": len(train.labels),
    }


def _unit(images):
    """Pixels of drawings as rows of mean 0 and length 1."""
    pixels = (
        sharp(images, min(PIXELS, images.shape[1]))
        .reshape(len(images), -1)
        .astype("float32")
    )
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return pixels / np.maximum(length, 1e-6)

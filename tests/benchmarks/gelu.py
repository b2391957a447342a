"""Exact GELU of the experts' hidden features, against Keras' own."""

import keras
import numpy as np

from keras_moe.ops import gelu
from tests.benchmarks import timing

SIZES = ((28, 112, 1536), (32, 128, 1536))  # experts, rows of each, features


def rows():
    for shape in SIZES:
        hidden = np.random.default_rng(0).normal(size=shape)
        arrays = timing.tensors([hidden.astype("float32")])
        functions = {
            "keras": keras.activations.gelu,
            "ours": gelu.quickest(keras.activations.gelu),
        }
        sizes = dict(zip(("experts", "rows", "features"), shape))
        yield from timing.compared(
            "exact GELU", sizes, functions, arrays, turns=9
        )

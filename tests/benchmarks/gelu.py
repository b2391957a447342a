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
        for mode, wrap in timing.MODES.items():
            functions = {
                "keras": wrap(keras.activations.gelu),
                "ours": wrap(gelu.quickest(keras.activations.gelu)),
            }
            seconds = timing.paired(functions, arrays, turns=9)
            for columns in timing.against(seconds, "keras"):
                yield {
                    "op": "exact GELU",
                    "mode": mode,
                    "experts": shape[0],
                    "rows": shape[1],
                    "features": shape[2],
                    **columns,
                }

"""Count the Python calls of one call of a layer, and the files they are in.

    KERAS_BACKEND=jax python -m tests.benchmarks.calls

prints a line for each layer: calls of functions of keras_moe, the files these
are in, and how often a call goes from one file to another.
"""

import pathlib
import sys

import numpy as np

import keras_moe
from keras_moe import layers

FOLDER = str(pathlib.Path(keras_moe.__file__).parent)
LAYERS = {
    "SoftMoE": lambda: layers.SoftMoE(4, 2, intermediate_dim=8),
    "ExpertChoiceMoE": lambda: layers.ExpertChoiceMoE(
        4, 1.0, intermediate_dim=8
    ),
    "TokenChoiceMoE": lambda: layers.TokenChoiceMoE(4, 2, intermediate_dim=8),
    "MixtureOfTokens": lambda: layers.MixtureOfTokens(4, 2, intermediate_dim=8),
}


def counted(layer, tokens) -> tuple:
    """(calls, files, switches of file) of one eager call after two others."""
    layer(tokens), layer(tokens)
    files = []

    def trace(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(FOLDER):
            files.append(name)

    sys.setprofile(trace)
    try:
        layer(tokens)
    finally:
        sys.setprofile(None)
    switches = sum(a != b for a, b in zip(files, files[1:]))
    return len(files), len(set(files)), switches


def main():
    tokens = np.ones((2, 8, 6), "float32")
    for name, make in LAYERS.items():
        calls, files, switches = counted(make(), tokens)
        print(
            f"{name:16} {calls:4} calls {files:3} files {switches:4} switches"
        )


if __name__ == "__main__":
    main()

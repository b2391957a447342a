"""Files of arrays of NumPy."""

import os

import numpy as np

from keras_moe import files


def write(path, **arrays) -> None:
    """Write arrays, compressed, into one file, whole or not at all.

    Args:
        path: of the file. Two processes that write it at once do not meet.
        **arrays: by their names in the file.
    """
    part = path.with_name(f".part.{os.getpid()}.{path.name}")
    with files.whole(part, path):
        np.savez_compressed(part, **arrays)

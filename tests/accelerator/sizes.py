"""Sizes fitted to the memory of a device, and products of as much work."""

import numpy as np
from keras import ops

from tests.benchmarks import timing

SMALLEST = {"tokens": 64, "hidden": 64, "features": 64, "groups": 1}


def fitted(size: dict, needed, free: int) -> dict:
    """Halve sizes, in the order of `SMALLEST`, until `needed` bytes fit."""
    size = dict(size)
    while needed(**size) > free / 2:
        large = (n for n, least in SMALLEST.items() if size.get(n, 0) > least)
        name = next(large, None)
        if name is None:
            raise MemoryError(f"{free} bytes are too few for {size}")
        size[name] //= 2
    return size


def normal(shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return ops.cast(ops.convert_to_tensor(values), dtype)


def products(rows, inner, columns, dtype, multiplications):
    """One product of this shape, standing for as many multiplications."""
    pair = normal((rows, inner), dtype), normal((inner, columns), dtype)
    run = timing.forward(ops.matmul)

    def product(*others):
        return run(*pair)

    product.times = multiplications / (rows * inner * columns)
    return product

"""Products of rows sorted by expert, in tiles: every backend and transform.

A tile has b rows of one expert. There are at most P/b + E of them, whatever
the rows' experts, so all shapes are known. Each tile takes a copy of its
expert's kernel; all are multiplied at once. b is P/E or a little more, so that
there are about as many copies as kernels.
"""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_moe import indexing
from keras_moe.ops.grouped.made import MadeKernels
from keras_moe.scalars import keep
from keras_moe.scalars import scalar


class Tiles(NamedTuple):
    """Rows and expert of each tile.

    Args:
        expert: int32 (N,), of each tile.
        row: int32 (N·b,), of each place in a tile.
        filled: Boolean (N,b), whether a row is there.
        place: int32 (P,), in the tiles, of each row.
        routed: Boolean (P,), whether a row is of an expert.
        size: b.
    """

    expert: Any
    row: Any
    filled: Any
    place: Any
    routed: Any
    size: int

    def __call__(self, rows, kernels):
        """Multiply an expert's rows by its kernel: (P,D) · (E,D,F) -> (P,F)."""
        features, outputs = kernels.shape[1:]
        tiles = ops.take(rows, self.row, axis=0)
        tiles = ops.reshape(tiles, (-1, self.size, features))
        tiles = keep(self.filled[:, :, None], tiles)
        products = tiles @ self._copies(kernels)  # (N,b,F)
        products = ops.reshape(products, (-1, outputs))
        products = ops.take(products, self.place, axis=0)
        return keep(self.routed[:, None], products)

    def _copies(self, kernels):
        """The kernel of each tile, (N,D,F)."""
        if isinstance(kernels, MadeKernels):
            return kernels.some(self.expert)
        # In 16 bits the gradient, a sum over tiles, would lose what each adds.
        copies = ops.cast(kernels, indexing.wide(kernels.dtype))
        return ops.cast(ops.take(copies, self.expert, axis=0), kernels.dtype)


def prepare(bounds, rows, experts) -> Tiles:
    """Cut the rows of each expert into tiles.

    Args:
        bounds: int32 (E+1,), where each expert's rows begin and end.
        rows: P, an integer or a scalar tensor.
        experts: E.
    """
    size, number = _sizes(rows, experts)
    starts, ends = bounds[:-1], bounds[1:]  # (E,)
    tiles = (ends - starts + size - 1) // size  # of each expert
    last = ops.cumsum(tiles, axis=0)
    first = last - tiles
    tile = ops.arange(0, number, dtype="int32")
    # (N,E), N about 2·E: which experts' tiles are all before this one.
    expert = ops.cast(tile[:, None] >= ops.cast(last, "int32"), "int32")
    expert = ops.minimum(
        ops.cast(ops.sum(expert, axis=1), "int32"), scalar(experts - 1, "int32")
    )
    expert = ops.cast(expert, "int32")
    begin = (
        ops.take(starts - first * size, expert, axis=0) + tile * size
    )  # (N,)
    row = begin[:, None] + ops.arange(0, size, dtype="int32")  # (N,b)
    filled = row < ops.take(ends, expert, axis=0)[:, None]
    row = ops.minimum(row, scalar(rows - 1, "int32"))
    row = ops.reshape(ops.maximum(row, scalar(0, "int32")), (-1,))

    # Where each row is: its expert's first place, and its own behind that.
    index = ops.arange(0, rows, dtype="int32")
    owner = _owner(index, ends, experts)
    shift = ops.take(first * size - starts, owner, axis=0)
    routed = index < bounds[-1]
    place = keep(routed, index + shift, 0)
    return Tiles(expert, row, filled, ops.cast(place, "int32"), routed, size)


def _sizes(rows, experts):
    """b and N for so many rows."""
    if isinstance(rows, int):
        size = max(-(-rows // experts), 1)
        return size, min(rows, -(-rows // size) + experts)
    if keras.backend.backend() == "tensorflow":
        # XLA knows at run time what tracing did not, and takes it for sizes.
        size = ops.maximum((rows + experts - 1) // experts, 1)
        return size, ops.minimum(rows, (rows + size - 1) // size + experts)
    size = 16
    return size, (rows + size - 1) // size + experts


def _owner(index, ends, experts):
    """int32 (P,): the expert of each row, some expert where there is none."""
    # One at each expert's end, added up: how many experts end at or before.
    # Two arrays (P,), and none of (P,E).
    ones = ops.ones_like(ends)[None, :, None]
    total = ops.shape(index)[0] + 1
    passed = indexing.add(ones, ops.cast(ends, "int32")[None], total)
    owner = ops.cast(ops.cumsum(passed[0, :-1, 0], axis=0), "int32")
    return ops.minimum(owner, scalar(experts - 1, "int32"))

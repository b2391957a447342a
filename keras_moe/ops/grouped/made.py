"""Kernels that are made when their expert is chosen, such as quantised ones.

    arrays of an expert -> its kernel (D,F)

The grouped products make one kernel after another, or that of each tile, and
none of experts that nobody chose.
"""

import dataclasses
from collections.abc import Callable

from keras import ops


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MadeKernels:
    """Kernels (E,D,F) that grouped products take in the place of an array.

    A gradient passes to the rows alone.

    Args:
        arrays: of all experts, (E,...) each.
        shared: arrays that every expert reads.
        make: `(arrays, shared, shape, dtype) -> (...,D,F)`, a function of a
            module. The arrays have any axes, or none, in the place of E.
        shape: (E,D,F).
        dtype: of the kernels.
        by_column: whether a kernel is the first array times the second, (1,F),
            so that a product may be scaled after it, in fewer passes.
    """

    arrays: tuple
    shared: tuple
    make: Callable
    shape: tuple
    dtype: str
    by_column: bool = False

    def one(self, expert):
        """The kernel of an expert, (D,F); `expert` is an integer or scalar."""
        return self._make([array[expert] for array in self.arrays])

    def unscaled(self, expert):
        """Values (D,F) and scales (F,) of an expert, if `by_column`."""
        values, scales = self.arrays
        return tuple(
            ops.cast(array, self.dtype)
            for array in (values[expert], scales[expert][0])
        )

    def some(self, experts):
        """The kernels of experts, int32 (N,) -> (N,D,F)."""
        chosen = [ops.take(array, experts, axis=0) for array in self.arrays]
        return self._make(chosen)

    def all(self):
        """Every expert's kernel, (E,D,F)."""
        return self._make(self.arrays)

    def _make(self, arrays):
        return self.make(arrays, self.shared, self.shape[1:], self.dtype)


def int8_kernels(values, scales, dtype) -> MadeKernels:
    """values · scales, made when chosen.

    Args:
        values: int8 (E,D,F).
        scales: floating (E,G,F); row d of a kernel is of group d // (D/G).
        dtype: of the kernels.
    """
    shape = tuple(values.shape)
    # In 16 bits a sum of values that are not scaled may be too large, or is
    # rounded once more.
    by_column = scales.shape[1] == 1 and dtype in ("float32", "float64")
    return MadeKernels((values, scales), (), _scaled, shape, dtype, by_column)


def int4_kernels(values, scales, dtype, zeros=None) -> MadeKernels:
    """(values - zeros) · scales, made when chosen.

    Args:
        values: int8 (E,D,F/2), two neighbours along F in each, the first in
            the lower bits, as `keras.quantizers.pack_int4` packs the last
            axis.
        scales: floating (E,G,F); row d of a kernel is of group d // (D/G).
        dtype: of the kernels.
        zeros: `None` or integers (E,G,F).
    """
    experts, features, half = values.shape
    arrays = (values, scales) if zeros is None else (values, scales, zeros)
    shape = (experts, features, 2 * half)
    return MadeKernels(arrays, (), _unpacked_scaled, shape, dtype)


def _scaled(arrays, shared, shape, dtype):
    values, scales, *zeros = arrays
    values = ops.cast(values, dtype)
    split = (*ops.shape(scales)[:-1], shape[0] // scales.shape[-2], shape[1])
    values = ops.reshape(values, split)  # (...,G,D/G,F)
    if zeros:
        values = values - ops.cast(zeros[0], dtype)[..., None, :]
    values = values * ops.cast(scales, dtype)[..., None, :]
    return ops.reshape(values, (*ops.shape(scales)[:-2], *shape))


def _unpacked_scaled(arrays, shared, shape, dtype):
    packed, *others = arrays
    return _scaled((unpacked(packed, dtype), *others), shared, shape, dtype)


def unpacked(packed, dtype):
    """int8 (...,n) -> (...,2n): the lower four bits first, signed."""
    # Right shifts of int8 keep the sign: up to the top and down again. Cast
    # last, as more passes over wider numbers take PyTorch three times as long.
    pairs = ops.stack([ops.left_shift(packed, 4), packed], axis=-1)
    values = ops.cast(ops.right_shift(pairs, 4), dtype)
    return ops.reshape(values, (*ops.shape(packed)[:-1], -1))

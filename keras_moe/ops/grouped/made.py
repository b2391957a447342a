"""Kernels that are made when their expert is chosen, such as quantised ones.

    arrays of an expert -> its kernel (D,F)

The grouped products make one kernel after another, or that of each tile, and
none of experts that nobody chose.
"""

import dataclasses
from collections.abc import Callable

import keras
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
        parts: `None`, or `arrays of one expert -> values, scales`, for a kernel
            that is not put together: tuples of n integer arrays (D,F/n) and
            floating ones (G,F/n). Part i has columns i, i + n, i + 2n….
    """

    arrays: tuple
    shared: tuple
    make: Callable
    shape: tuple
    dtype: str
    parts: Callable | None = None

    def one(self, expert):
        """The kernel of an expert, (D,F); `expert` is an integer or scalar."""
        return self._make([array[expert] for array in self.arrays])

    def multiply(self, rows, expert, turned=False, scaled=None):
        """Rows (N,D) by an expert's kernel, (N,F); or (N,F) by that turned.

        Args:
            rows: see above.
            expert: integer or scalar.
            turned: see above.
            scaled: `scale_groups`, or one that writes into memory of its own.
        """
        if self.parts is None:
            kernel = self.one(expert)
            return rows @ (ops.transpose(kernel) if turned else kernel)
        parts = self.parts([array[expert] for array in self.arrays])
        count = len(parts[0])
        if turned:
            columns = ops.reshape(rows, (-1, self.shape[2] // count, count))
            rows = [columns[..., i] for i in range(count)]
        else:
            rows = [rows] * count
        made = [
            _product(*part, turned, scaled or scale_groups)
            for part in zip(rows, *parts)
        ]
        if turned:
            return sum(made[1:], made[0])
        if count == 1:
            return made[0]
        return ops.reshape(ops.stack(made, -1), (-1, self.shape[2]))

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
    parts = _whole if _may_scale_after(dtype) else None
    return MadeKernels((values, scales), (), _scaled, shape, dtype, parts)


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
    parts = _halves if _may_scale_after(dtype) and zeros is None else None
    return MadeKernels(arrays, (), _unpacked_scaled, shape, dtype, parts)


def _may_scale_after(dtype):
    """Tell whether sums of integers may be written in this dtype.

    In 16 bits a sum of values that are not scaled may be too large, or is
    rounded once more.
    """
    return keras.backend.standardize_dtype(dtype) in ("float32", "float64")


def _whole(arrays):
    """int8 (D,F) and scales (G,F) as one part."""
    values, scales = arrays
    return (values,), (scales,)


def _halves(arrays):
    """Pairs of int4 (D,F/2) and scales (G,F) as two parts.

    To put columns of kernels together takes a pass over wider numbers; products
    are smaller.
    """
    packed, scales = arrays
    first = ops.right_shift(ops.left_shift(packed, 4), 4)
    second = ops.right_shift(packed, 4)
    return (first, second), (scales[:, 0::2], scales[:, 1::2])


def _product(rows, values, scales, turned, scaled):
    """Rows by a part; a scale of a whole column multiplies the rows instead."""
    scales = ops.cast(scales, rows.dtype)
    if scales.shape[0] > 1:
        kernel = scaled(values, scales)
        return rows @ (ops.transpose(kernel) if turned else kernel)
    kernel = scaled(values, None, rows.dtype)
    if turned:
        return (rows * scales) @ ops.transpose(kernel)
    return (rows @ kernel) * scales


def scale_groups(values, scales, dtype=None):
    """Integers (D,F) by scales (G,F), or `None` for 1, -> (D,F)."""
    if scales is None:
        return ops.cast(values, dtype)
    runs = (scales.shape[0], -1, scales.shape[1])
    kernel = ops.cast(ops.reshape(values, runs), scales.dtype)
    return ops.reshape(kernel * scales[:, None], values.shape)


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

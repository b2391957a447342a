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
        parts: of a kernel that is not put together, their number n. Part i
            has columns i, i + n, i + 2n…; `arrays` are integers and scales, and
            n integers share a byte. 0 for kernels that `make` makes.
    """

    arrays: tuple
    shared: tuple
    make: Callable
    shape: tuple
    dtype: str
    parts: int = 0

    def one(self, expert):
        """The kernel of an expert, (D,F); `expert` is an integer or scalar."""
        return self._make([array[expert] for array in self.arrays])

    def multiply(self, rows, expert, turned=False):
        """Rows (N,D) by an expert's kernel, (N,F); or (N,F) by that turned.

        A scale of a whole column multiplies the rows, not the kernel.
        """
        if not self.parts:
            return self.by_pieces(rows, (self.one(expert),), turned)
        pieces = self._parts_of(expert)
        return self.by_pieces(rows, pieces, turned, _scaled_product)

    def pieces(self, expert):
        """The kernel of an expert, or the kernels (D,F/n) of its parts."""
        if not self.parts:
            return (self.one(expert),)
        return tuple(
            scale_groups(values, ops.cast(scales, self.dtype))
            for values, scales in self._parts_of(expert)
        )

    def by_pieces(self, rows, pieces, turned, product=None):
        """Rows by a kernel of which piece i has the columns i, i + n, i + 2n….

        Args:
            rows: as of `multiply`.
            pieces: n kernels (D,F/n), as `pieces` returns.
            turned: as of `multiply`.
            product: `(rows, piece, turned) -> outputs`; by default the matrix
                product.
        """
        product = product or _product
        count = len(pieces)
        if count == 1:
            return product(rows, pieces[0], turned)
        if turned:
            columns = ops.reshape(rows, (-1, self.shape[2] // count, count))
            made = [
                product(columns[..., i], piece, turned)
                for i, piece in enumerate(pieces)
            ]
            return sum(made[1:], made[0])
        made = [product(rows, piece, turned) for piece in pieces]
        return ops.reshape(ops.stack(made, -1), (-1, self.shape[2]))

    def some(self, experts):
        """The kernels of experts, int32 (N,) -> (N,D,F)."""
        chosen = [ops.take(array, experts, axis=0) for array in self.arrays]
        return self._make(chosen)

    def all(self):
        """Every expert's kernel, (E,D,F)."""
        return self._make(self.arrays)

    def _parts_of(self, expert):
        """Pairs of integers (D,F/n) and scales (G,F/n)."""
        values, scales = (array[expert] for array in self.arrays)
        integers = (values,) if self.parts == 1 else _halves(values)
        return [
            (part, scales[:, i :: self.parts])
            for i, part in enumerate(integers)
        ]

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
    parts = 1 if _may_scale_after(dtype) else 0
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
    parts = 2 if _may_scale_after(dtype) and zeros is None else 0
    return MadeKernels(arrays, (), _unpacked_scaled, shape, dtype, parts)


def _may_scale_after(dtype):
    """Tell whether sums of integers may be written in this dtype.

    In 16 bits a sum of values that are not scaled may be too large, or is
    rounded once more.
    """
    return keras.backend.standardize_dtype(dtype) in ("float32", "float64")


def _halves(packed):
    """Pairs of int4 (D,F/2) -> the lower and the upper ones, int8.

    To put columns of kernels together takes a pass over wider numbers; products
    are smaller.
    """
    first = ops.right_shift(ops.left_shift(packed, 4), 4)
    return first, ops.right_shift(packed, 4)


def _product(rows, kernel, turned):
    return rows @ (ops.transpose(kernel) if turned else kernel)


def _scaled_product(rows, part, turned):
    """Rows by integers and scales."""
    values, scales = part
    scales = ops.cast(scales, rows.dtype)
    if scales.shape[0] > 1:
        return _product(rows, scale_groups(values, scales), turned)
    kernel = ops.cast(values, rows.dtype)
    if turned:
        return _product(rows * scales, kernel, turned)
    return _product(rows, kernel, turned) * scales


def scale_groups(values, scales):
    """Integers (D,F) by scales (G,F) -> (D,F)."""
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

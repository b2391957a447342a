"""Replacements of a bank's kernel: quantised, or with adapters.

Products take the arrays that it gives. KerasHub's converters and files assign
to it as to the variable that it replaced.
"""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_moe.ops.grouped import made
from keras_moe.ops.reference import Dispatcher

# Steps of a scale that are tried: the largest entry may be cut off where the
# others come out nearer (int4 alone, whose steps are coarse).
CUTS = (1.0, 0.9, 0.8)


class ReplacedKernel:
    """A kernel (E,D,F) that is more than one variable."""

    name: str
    shape: tuple


class QuantizedKernel(ReplacedKernel):
    """Integers and scales of a bank's kernel, (E,D,F).

    Args:
        bank: gets the variables, beside which it stays as it is.
        variable: the kernel in float, to which nothing here refers afterwards.
        mode: `"int8"` or `"int4"`.
        group_size: as of `quantize_experts`.
    """

    def __init__(self, bank, variable, mode, group_size):
        self.name, self.mode = variable.name, mode
        self.group_size = group_size
        self.shape = tuple(variable.shape)
        self.groups = 1
        if mode == "int4":
            self.groups = self.shape[1] // group_of(self.shape[1], group_size)
        values, scales = self._quantized(ops.convert_to_numpy(variable))
        discard(bank, variable)
        self.values = _weight(bank, self.name, values, "int8")
        self.scales = _weight(bank, f"{self.name}_scale", scales, "float32")

    def arrays(self, dtype, whole):
        """Operand of a product: `MadeKernels`, or an array of all kernels."""
        make = {"int8": made.int8_kernels, "int4": made.int4_kernels}
        kernels = make[self.mode](
            ops.convert_to_tensor(self.values),
            ops.convert_to_tensor(self.scales),
            dtype,
        )
        return kernels.all() if whole else kernels

    def of_expert(self, expert):
        """The kernel of an expert in float32, (D,F), for the host."""
        kernels = self.arrays("float32", whole=False)
        return ops.convert_to_numpy(kernels.one(expert))

    def assign(self, kernel):
        """Quantise a kernel in float, (E,D,F)."""
        shape = tuple(kernel.shape)
        if shape != self.shape:
            raise ValueError(
                f"kernels of {self.values.path} must have the shape "
                f"{self.shape}; received one of {shape}."
            )
        values, scales = self._quantized(kernel)
        self.values.assign(values)
        self.scales.assign(scales)

    def _quantized(self, kernel):
        """One expert after another, so that little is in float32 at a time."""
        experts, features, hidden = self.shape
        width = hidden if self.mode == "int8" else hidden // 2
        values = np.empty((experts, features, width), "int8")
        scales = np.empty((experts, self.groups, hidden), "float32")
        for e in range(experts):
            one = np.asarray(kernel[e]).astype("float32")
            rounded, scales[e] = quantized(one, self.mode, self.groups)
            if self.mode == "int4":
                rounded = ops.convert_to_numpy(
                    keras.quantizers.pack_int4(rounded, axis=-1)[0]
                )
            values[e] = rounded
        return values, scales


def group_of(features, group_size) -> int:
    """Number of inputs that share a scale, the largest divisor of D in size."""
    sizes = range(1, min(group_size, features) + 1)
    return max(size for size in sizes if features % size == 0)


def quantized(kernel, mode, groups):
    """Integers and scales whose product is nearly a kernel.

    Args:
        kernel: float32 numpy (D,F).
        mode: `"int8"`, from -127 to 127, or `"int4"`, from -8 to 7.
        groups: G, of D/G inputs each.

    Returns:
        int8 (D,F) and float32 (G,F).
    """
    split = kernel.reshape(groups, -1, kernel.shape[1])  # (G,D/G,F)
    largest = np.take_along_axis(
        split, np.abs(split).argmax(1, keepdims=True), 1
    )
    if mode == "int8":
        scale = np.abs(largest) / 127
        return _rounded(split, scale, -127, 127).reshape(kernel.shape), scale[
            :, 0
        ]
    # Of the sixteen integers -8 is the farthest from zero, so that the largest
    # entry becomes that, by a scale of the other sign if it is positive.
    best = error = None
    for cut in CUTS:
        scale = largest * (cut / -8)
        values = _rounded(split, scale, -8, 7)
        wrong = np.square(values * scale - split).sum(1, keepdims=True)
        if best is None:
            best, error = (values, scale), wrong
            continue
        less = wrong < error
        error = np.where(less, wrong, error)
        best = np.where(less, values, best[0]), np.where(less, scale, best[1])
    return best[0].reshape(kernel.shape), best[1][:, 0]


def _rounded(kernel, scale, least, most):
    steps = kernel / np.where(scale == 0, 1, scale)
    return np.clip(np.rint(steps), least, most).astype("int8")


class AdaptedKernel(ReplacedKernel):
    """A kernel and adapters: base + scaling · A · B for each expert.

    Args:
        bank: gets the variables.
        base: the kernel, a variable or a `QuantizedKernel`.
        rank: r, of A (E,D,r) and B (E,r,F).
        alpha: r times the scaling of their product.
    """

    def __init__(self, bank, base, rank, alpha):
        self.name, self.shape = base.name, tuple(base.shape)
        self.base, self.rank, self.alpha = base, rank, alpha
        experts, features, hidden = self.shape
        bound = (6 / features) ** 0.5  # as `he_uniform` of one expert
        first = keras.random.uniform(
            (experts, features, rank), -bound, bound, dtype=bank.variable_dtype
        )
        last = ops.zeros((experts, rank, hidden), dtype=bank.variable_dtype)
        options = {"dtype": bank.variable_dtype, "trainable": True}
        self.a = _weight(bank, f"lora_{self.name}_a", first, **options)
        self.b = _weight(bank, f"lora_{self.name}_b", last, **options)

    def arrays(self, dtype, whole):
        """Arguments of `Steps`."""
        a = ops.cast(ops.convert_to_tensor(self.a), dtype)
        b = ops.cast(ops.convert_to_tensor(self.b), dtype)
        return WithAdapters(
            arrays(self.base, dtype, whole), a, b, self.alpha / self.rank
        )

    def assign(self, kernel):
        """Of the base; the adapters stay."""
        self.base.assign(kernel)

    def merge(self, bank):
        """The base with the adapters in it, which the bank then has no more."""
        a, b = (ops.convert_to_numpy(one) for one in (self.a, self.b))
        merged = np.empty(self.shape, "float32")
        for e in range(self.shape[0]):
            merged[e] = _of_expert(self.base, e)
            merged[e] += (
                self.alpha
                / self.rank
                * (a[e].astype("float32") @ b[e].astype("float32"))
            )
        self.base.assign(merged)
        discard(bank, self.a)
        discard(bank, self.b)
        return self.base


def _of_expert(kernel, expert):
    if isinstance(kernel, QuantizedKernel):
        return kernel.of_expert(expert)
    return ops.convert_to_numpy(kernel[expert]).astype("float32")


class WithAdapters(NamedTuple):
    """Arrays of an `AdaptedKernel`."""

    base: Any
    a: Any
    b: Any
    scaling: float


class Steps(Dispatcher):
    """The products of a dispatcher, of kernels with adapters too."""

    def __init__(self, dispatcher):
        self.multiply = dispatcher.product or _plain_product
        self.shift = dispatcher.shift

    def product(self, rows, kernel):
        if not isinstance(kernel, WithAdapters):
            return self.multiply(rows, kernel)
        low = self.multiply(rows, kernel.a) * kernel.scaling
        return self.multiply(rows, kernel.base) + self.multiply(low, kernel.b)


def _plain_product(rows, kernel):
    return rows @ kernel


def arrays(kernel, dtype, whole):
    """Of a variable or a `ReplacedKernel`, autocast as in the running call."""
    if isinstance(kernel, ReplacedKernel):
        return kernel.arrays(dtype, whole)
    return ops.cast(ops.convert_to_tensor(kernel), dtype)


def discard(bank, variable):
    """Let a layer forget a variable, as Keras' own `quantize` does."""
    bank._untrack_variable(variable)


def _weight(bank, name, array, dtype, trainable=False):
    """A new variable of a built layer."""
    bank._tracker.unlock()
    weight = bank.add_weight(
        shape=array.shape,
        initializer=lambda shape, dtype: ops.convert_to_tensor(array, dtype),
        dtype=dtype,
        trainable=trainable,
        autocast=trainable,
        name=name,
    )
    bank._tracker.lock()
    return weight

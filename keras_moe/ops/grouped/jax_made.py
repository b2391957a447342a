"""Grouped products on JAX's CPUs with kernels that are made when chosen.

As in `jax_products.py`, a primitive, so that every derivative to the rows and
`vmap` are there. The kernels are constants.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir

from keras_moe.ops.grouped import jax_loops
from keras_moe.ops.grouped import jax_products
from keras_moe.ops.grouped.made import MadeKernels

_product = Primitive("grouped_product_of_made_kernels")


def product(rows, kernels: MadeKernels, bounds):
    """The rows of each expert by its kernel: (P,D) · (E,D,F) -> (P,F)."""
    owner = jnp.arange(kernels.shape[0], dtype=bounds.dtype)
    return _product.bind(
        rows,
        owner,
        bounds[:-1],
        bounds[1:],
        *kernels.arrays,
        *kernels.shared,
        many=len(kernels.arrays),
        known=(kernels.make, kernels.shape, kernels.dtype, kernels.parts),
        turned=False,
    )


def _kernels(arrays, many, known):
    return MadeKernels(tuple(arrays[:many]), tuple(arrays[many:]), *known)


def _multiply(rows, owner, starts, ends, *arrays, many, known, turned):
    kernels = _kernels(arrays, many, known)
    return jax_loops.by_segment(
        rows,
        lambda m: kernels.pieces(owner[m]),
        lambda rows, pieces: kernels.by_pieces(rows, pieces, turned),
        kernels.shape[1 if turned else 2],
        starts,
        ends,
    )


def _shape(rows, *others, many, known, turned):
    features = known[1][1 if turned else 2]
    return jax.core.ShapedArray((rows.shape[0], features), rows.dtype)


def _derive(values, changes, **options):
    """Linear in the rows; changes of kernels do not pass."""
    outputs = _product.bind(*values, **options)
    if isinstance(changes[0], ad.Zero):
        return outputs, ad.Zero.from_primal_value(outputs)
    return outputs, _product.bind(changes[0], *values[1:], **options)


def _transpose(grad, rows, *others, many, known, turned):
    by_rows = _product.bind(
        ad.instantiate_zeros(grad),
        *others,
        many=many,
        known=known,
        turned=not turned,
    )
    return by_rows, *(None,) * len(others)


def _batch(values, axes, many, known, turned):
    rows, *others = values
    count = jax_products.count_of(values, axes)
    segments, arrays = others[:3], others[3:]
    member_experts = 0
    if any(axis is not None for axis in axes[4:]):
        if any(axis is not None for axis in axes[4 + many :]):
            raise NotImplementedError("vmap over arrays that experts share")
        arrays[:many] = [
            jax_products.first_axis(array, axis, count)
            for array, axis in zip(arrays[:many], axes[4:])
        ]
        arrays[:many] = [a.reshape(-1, *a.shape[2:]) for a in arrays[:many]]
        make, (member_experts, *sizes), *rest = known
        known = (make, (count * member_experts, *sizes), *rest)
    rows = jax_products.first_axis(rows, axes[0], count)
    length = rows.shape[1]
    made = _product.bind(
        rows.reshape(-1, rows.shape[-1]),
        *jax_products.more_segments(
            segments, axes[1:4], count, length, member_experts
        ),
        *arrays,
        many=many,
        known=known,
        turned=turned,
    )
    return made.reshape(count, length, made.shape[-1]), 0


_product.def_impl(
    jax.jit(_multiply, static_argnames=("many", "known", "turned"))
)
_product.def_abstract_eval(_shape)
mlir.register_lowering(
    _product, mlir.lower_fun(_multiply, multiple_results=False)
)
ad.primitive_jvps[_product] = _derive
ad.primitive_transposes[_product] = _transpose
batching.primitive_batchers[_product] = _batch

"""Two products on JAX, each the other's gradient, by loops over tiles.

    product: rows (P,D) · kernels (E,D,F) -> (P,F)
    outer:   (P,D), (P,F) -> (E,D,F), the sum over each expert's rows

Segment m has the rows from `starts[m]` up to `ends[m]`, of expert `owner[m]`;
`jax_loops.py` computes. As primitives of JAX, both have every derivative in
either mode, and `vmap` makes of them more segments of more rows.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir

from keras_moe.ops.grouped import jax_loops


def product(rows, kernels, bounds):
    """Multiply an expert's rows by its kernel: (P,D) · (E,D,F) -> (P,F)."""
    owner = jnp.arange(kernels.shape[0], dtype=bounds.dtype)
    return _product.bind(
        rows,
        kernels,
        owner,
        bounds[:-1],
        bounds[1:],
        turned=False,
        unique=True,
    )


# === Primitives ===

_product = Primitive("grouped_product")
_outer = Primitive("grouped_outer_product")


def _product_shape(rows, kernels, *segments, turned, unique):
    features = kernels.shape[1 if turned else 2]
    return jax.core.ShapedArray((rows.shape[0], features), rows.dtype)


def _outer_shape(first, second, *segments, experts, unique):
    shape = (experts, first.shape[1], second.shape[1])
    return jax.core.ShapedArray(shape, first.dtype)


def _derive(primitive, values, changes, **options):
    """Derive a product, which is linear in each of its first two arrays."""
    first, second, *segments = values
    outputs = primitive.bind(*values, **options)
    parts = []
    if not isinstance(changes[0], ad.Zero):
        parts.append(primitive.bind(changes[0], second, *segments, **options))
    if not isinstance(changes[1], ad.Zero):
        parts.append(primitive.bind(first, changes[1], *segments, **options))
    return outputs, sum(parts[1:], parts[0])


def _transpose_product(grad, rows, kernels, *segments, turned, unique):
    nothing = (None,) * len(segments)
    grad = ad.instantiate_zeros(grad)
    if ad.is_undefined_primal(rows):
        by_rows = _product.bind(
            grad, kernels, *segments, turned=not turned, unique=unique
        )
        return by_rows, None, *nothing
    pair = (grad, rows) if turned else (rows, grad)
    experts = kernels.aval.shape[0]
    by_kernels = _outer.bind(*pair, *segments, experts=experts, unique=unique)
    return None, by_kernels, *nothing


def _transpose_outer(grad, first, second, *segments, experts, unique):
    nothing = (None,) * len(segments)
    grad = ad.instantiate_zeros(grad)
    options = {"unique": unique}
    if ad.is_undefined_primal(first):
        by_first = _product.bind(
            second, grad, *segments, turned=True, **options
        )
        return by_first, None, *nothing
    by_second = _product.bind(first, grad, *segments, turned=False, **options)
    return None, by_second, *nothing


def first_axis(array, axis, count):
    """Put the mapped axis first; repeat what is not mapped."""
    if axis is None:
        return jnp.broadcast_to(array, (count, *array.shape))
    return jnp.moveaxis(array, axis, 0)


def count_of(values, axes):
    mapped = ((v, a) for v, a in zip(values, axes) if a is not None)
    array, axis = next(mapped)
    return array.shape[axis]


def more_segments(segments, axes, count, rows, experts):
    """Join the segments of a batch, whose rows lie one behind another."""
    owner, starts, ends = (
        first_axis(one, axis, count) for one, axis in zip(segments, axes)
    )
    member = jnp.arange(count, dtype=starts.dtype)[:, None]
    shifted = (owner + member * experts, starts + member * rows)
    return [x.reshape(-1) for x in (*shifted, ends + member * rows)]


def _batch_product(values, axes, turned, unique):
    rows, kernels, *segments = values
    count = count_of(values, axes)
    rows = first_axis(rows, axes[0], count)
    length, experts = rows.shape[1], 0
    if axes[1] is not None:
        kernels = first_axis(kernels, axes[1], count)
        experts = kernels.shape[1]
        kernels = kernels.reshape(-1, *kernels.shape[2:])
    else:
        unique = False
    outputs = _product.bind(
        rows.reshape(-1, rows.shape[-1]),
        kernels,
        *more_segments(segments, axes[2:], count, length, experts),
        turned=turned,
        unique=unique,
    )
    return outputs.reshape(count, length, outputs.shape[-1]), 0


def _batch_outer(values, axes, experts, unique):
    first, second, *segments = values
    count = count_of(values, axes)
    first, second = (
        first_axis(first, axes[0], count),
        first_axis(second, axes[1], count),
    )
    outputs = _outer.bind(
        first.reshape(-1, first.shape[-1]),
        second.reshape(-1, second.shape[-1]),
        *more_segments(segments, axes[2:], count, first.shape[1], experts),
        experts=count * experts,
        unique=unique,
    )
    return outputs.reshape(count, experts, *outputs.shape[1:]), 0


def _define(primitive, call, shape, transpose, batch):
    options = {
        _product: ("turned", "unique"),
        _outer: ("experts", "unique"),
    }[primitive]
    primitive.def_impl(jax.jit(call, static_argnames=options))
    primitive.def_abstract_eval(shape)
    lowered = mlir.lower_fun(call, multiple_results=False)
    mlir.register_lowering(primitive, lowered)
    ad.primitive_jvps[primitive] = functools.partial(_derive, primitive)
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch


_define(
    _product,
    jax_loops.multiply,
    _product_shape,
    _transpose_product,
    _batch_product,
)
_define(
    _outer, jax_loops.add_outer, _outer_shape, _transpose_outer, _batch_outer
)

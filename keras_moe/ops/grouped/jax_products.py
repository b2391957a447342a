"""Two products on JAX, each the other's gradient, in loops over tiles.

    product: rows (P,D) · kernels (E,D,F) -> (P,F)
    outer:   (P,D), (P,F) -> (E,D,F), the sum over each expert's rows

Segment m has the rows from `starts[m]` up to `ends[m]`, of expert `owner[m]`.
A loop goes over the segments that have rows, one within it over tiles of b
rows; each segment takes its expert's kernel once. As primitives of JAX, both
have every derivative in either mode, and `vmap` makes of them more segments of
more rows.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir

SMALLEST, LARGEST = 8, 128  # rows of a tile
UNKNOWN = 16  # where the number of rows is a symbol


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


# === Loops ===


def _tile_size(rows, segments):
    """b: a quarter of what a segment has on average, a power of two.

    Not below what products are quick with, but for segments of about one row.
    """
    if not isinstance(rows, int):
        return UNKNOWN
    if rows < 2 * segments:
        return 1
    size = SMALLEST
    while size < LARGEST and size * 8 * segments <= rows:
        size *= 2
    return min(size, rows)


def _padded(array, size):
    """With rows of zeros, so that there are as many as a tile has."""
    if isinstance(array.shape[0], int):
        return array
    return jnp.pad(array, ((0, size), (0, 0)))


def _for_present(starts, ends, step, result):
    """Fold `step(segment, result)` over the segments that have rows."""
    present = ends > starts
    segments = jnp.argsort(jnp.logical_not(present), stable=True)
    number = present.sum(dtype=jnp.int32)

    def body(state):
        turn, result = state
        return turn + 1, step(segments[turn], result)

    return jax.lax.while_loop(
        lambda state: state[0] < number, body, (jnp.int32(0), result)
    )[1]


def _for_tiles(start, end, size, rows, step, result):
    """Fold `step(first, inside, result)` over the tiles of a segment.

    The last tile of all may begin before it should, to end with the rows:
    `inside`, (b,1), says which of its rows are new ones of this segment.
    """

    def body(state):
        at, result = state
        first = jnp.minimum(at, rows - size)
        index = first + jnp.arange(size, dtype=start.dtype)
        inside = jnp.logical_and(index >= at, index < end)[:, None]
        return at + size, step(first, inside, result)

    return jax.lax.while_loop(
        lambda state: state[0] < end, body, (start, result)
    )[1]


def _slice(array, first, size):
    return jax.lax.dynamic_slice_in_dim(array, first, size, 0)


def _write(array, values, first):
    return jax.lax.dynamic_update_slice_in_dim(array, values, first, 0)


def _multiply(rows, kernels, owner, starts, ends, turned, unique):
    def kernel_of(m):
        return jax.lax.dynamic_index_in_dim(kernels, owner[m], 0, False)

    features = kernels.shape[1 if turned else 2]
    return by_segment(rows, kernel_of, features, starts, ends, turned)


def by_segment(rows, kernel_of, features, starts, ends, turned):
    """The rows of segment m by `kernel_of(m)`, or by that turned."""
    number = rows.shape[0]
    if isinstance(number, int) and number == 0:
        return jnp.zeros((0, features), rows.dtype)
    size = _tile_size(number, starts.shape[0])
    rows = _padded(rows, size)
    contract = (((1,), (1 if turned else 0,)), ((), ()))

    def segment(m, outputs):
        kernel = kernel_of(m)

        def tile(first, inside, outputs):
            product = jax.lax.dot_general(
                _slice(rows, first, size), kernel, contract
            )
            product = jnp.where(inside, product, _slice(outputs, first, size))
            return _write(outputs, product, first)

        return _for_tiles(
            starts[m], ends[m], size, rows.shape[0], tile, outputs
        )

    outputs = jnp.zeros((rows.shape[0], features), rows.dtype)
    return _for_present(starts, ends, segment, outputs)[:number]


def _add_outer(first, second, owner, starts, ends, experts, unique):
    shape = (experts, first.shape[1], second.shape[1])
    dtype = first.dtype
    number = first.shape[0]
    if isinstance(number, int) and number == 0:
        return jnp.zeros(shape, dtype)
    # A sum of many tiles in 16 bits would lose what each adds.
    wide = jnp.promote_types(dtype, jnp.float32)
    outputs = jnp.zeros(shape, dtype if unique else wide)
    size = _tile_size(number, starts.shape[0])
    first, second = _padded(first, size), _padded(second, size)
    contract = (((0,), (0,)), ((), ()))

    def segment(m, outputs):
        def tile(begin, inside, total):
            rows = jnp.where(inside, _slice(first, begin, size), 0)
            return total + jax.lax.dot_general(
                rows,
                _slice(second, begin, size),
                contract,
                preferred_element_type=wide,
            )

        total = jnp.zeros(shape[1:], wide)
        total = _for_tiles(
            starts[m], ends[m], size, first.shape[0], tile, total
        )[None]
        if not unique:
            total += _slice(outputs, owner[m], 1)
        return _write(outputs, total.astype(outputs.dtype), owner[m])

    return _for_present(starts, ends, segment, outputs).astype(dtype)


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


_define(_product, _multiply, _product_shape, _transpose_product, _batch_product)
_define(_outer, _add_outer, _outer_shape, _transpose_outer, _batch_outer)

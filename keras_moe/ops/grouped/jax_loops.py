"""Loops over tiles of rows sorted by expert, on JAX's CPUs.

Segment m has the rows from `starts[m]` up to `ends[m]`, of expert `owner[m]`.
A loop goes over the segments that have rows, loops within it over tiles of b
rows; each segment takes its expert's kernel once.
"""

import functools

import jax
import jax.numpy as jnp

# Rows of tiles. Large ones use a kernel better; small ones, for the rest of a
# segment, compute less in vain. Segments have about the first of them or more.
SIZES = ((128, 32, 8), (64, 16), (32, 8))
FEW, UNKNOWN = (8,), (16,)  # for fewer rows, and where their number is a symbol


def _tile_sizes(rows, segments):
    """b, the sizes of tiles, from large to small.

    Segments of about one row have tiles of one.
    """
    if not isinstance(rows, int):
        return UNKNOWN
    if rows < 2 * segments:
        return (1,)
    enough = (sizes for sizes in SIZES if sizes[0] * segments <= rows)
    return tuple(min(size, rows) for size in next(enough, FEW))


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


def _for_tiles(start, end, sizes, rows, step, result):
    """Fold `step(first, size, inside, result)` over the tiles of a segment.

    `inside` is `None` for tiles with rows of the segment alone. Those of the
    smallest size may have others, and the last of all may begin before it
    should, to end with the rows: there `inside`, (b,1), says which rows are
    new ones of this segment.
    """

    def full(size, state):
        at, result = state
        return at + size, step(at, size, None, result)

    def partial(size, state):
        at, result = state
        first = jnp.minimum(at, rows - size)
        index = first + jnp.arange(size, dtype=start.dtype)
        inside = jnp.logical_and(index >= at, index < end)[:, None]
        return at + size, step(first, size, inside, result)

    state = (start, result)
    for size in sizes[:-1]:
        state = jax.lax.while_loop(
            lambda state, size=size: state[0] + size <= end,
            functools.partial(full, size),
            state,
        )
    return jax.lax.while_loop(
        lambda state: state[0] < end,
        functools.partial(partial, sizes[-1]),
        state,
    )[1]


def _slice(array, first, size):
    return jax.lax.dynamic_slice_in_dim(array, first, size, 0)


def _write(array, values, first):
    return jax.lax.dynamic_update_slice_in_dim(array, values, first, 0)


def multiply(rows, kernels, owner, starts, ends, turned, unique):
    def kernel_of(m):
        return jax.lax.dynamic_index_in_dim(kernels, owner[m], 0, False)

    def product(rows, kernel):
        return jax.lax.dot_general(rows, kernel, contract)

    contract = (((1,), (1 if turned else 0,)), ((), ()))
    features = kernels.shape[1 if turned else 2]
    return by_segment(rows, kernel_of, product, features, starts, ends)


def by_segment(rows, kernel_of, product, features, starts, ends):
    """`product` of the rows of segment m and `kernel_of(m)`, tile by tile."""
    number = rows.shape[0]
    if isinstance(number, int) and number == 0:
        return jnp.zeros((0, features), rows.dtype)
    sizes = _tile_sizes(number, starts.shape[0])
    rows = _padded(rows, sizes[-1])

    def segment(m, outputs):
        kernel = kernel_of(m)

        def tile(first, size, inside, outputs):
            made = product(_slice(rows, first, size), kernel)
            if inside is not None:
                made = jnp.where(inside, made, _slice(outputs, first, size))
            return _write(outputs, made, first)

        return _for_tiles(
            starts[m], ends[m], sizes, rows.shape[0], tile, outputs
        )

    outputs = jnp.zeros((rows.shape[0], features), rows.dtype)
    return _for_present(starts, ends, segment, outputs)[:number]


def add_outer(first, second, owner, starts, ends, experts, unique):
    shape = (experts, first.shape[1], second.shape[1])
    dtype = first.dtype
    number = first.shape[0]
    if isinstance(number, int) and number == 0:
        return jnp.zeros(shape, dtype)
    # A sum of many tiles in 16 bits would lose what each adds.
    wide = jnp.promote_types(dtype, jnp.float32)
    outputs = jnp.zeros(shape, dtype if unique else wide)
    sizes = _tile_sizes(number, starts.shape[0])
    first, second = (_padded(x, sizes[-1]) for x in (first, second))
    contract = (((0,), (0,)), ((), ()))

    def segment(m, outputs):
        def tile(begin, size, inside, total):
            rows = _slice(first, begin, size)
            if inside is not None:
                rows = jnp.where(inside, rows, 0)
            return total + jax.lax.dot_general(
                rows,
                _slice(second, begin, size),
                contract,
                preferred_element_type=wide,
            )

        total = jnp.zeros(shape[1:], wide)
        total = _for_tiles(
            starts[m], ends[m], sizes, first.shape[0], tile, total
        )[None]
        if not unique:
            total += _slice(outputs, owner[m], 1)
        return _write(outputs, total.astype(outputs.dtype), owner[m])

    return _for_present(starts, ends, segment, outputs).astype(dtype)

"""Take rows by index and add rows up by index, each group by itself.

Indices count inside their group. Numbered through over all groups they would
reach 2^31 sooner, and where each device holds some of the groups, XLA would
gather all groups on each device.

On JAX under `keras.distribution`, each device takes and adds up the rows of the
groups that it holds (`shard_map`). Compiled for TPUs without it, XLA gathers
the tokens of all groups.
"""

import functools
import math

import keras
from keras import ops

from keras_moe import distribution


def take(rows, index):
    """Rows by index: (G,N,D), int32 (G,M) -> (G,M,D).

    Args:
        rows: (G,N,D).
        index: int32 (G,M), from 0 to N - 1.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return distribution.by_groups(_take_on_jax, rows, index)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.gather(rows, index, batch_dims=1)
    groups, number, features = rows.shape
    taken = rows.reshape(-1, features).index_select(0, _numbered(index, number))
    return taken.reshape(groups, index.shape[1], features)


def add(rows, index, total):
    """Add up rows of equal index: (G,M,D), int32 (G,M) -> (G,total,D).

    Args:
        rows: (G,M,D).
        index: int32 (G,M), from 0 to total - 1.
        total: how many rows come out.
    """
    backend = keras.backend.backend()
    features = rows.shape[-1]
    if backend == "jax":
        local = functools.partial(_add_on_jax, total=total)
        return distribution.by_groups(local, rows, index)
    if backend == "tensorflow":
        import tensorflow as tf

        # Along one axis, and by int32 where it is enough, as ONNX has it.
        number = (rows.shape[0], total)
        unknown = not all(isinstance(n, int) for n in number)
        dtype = "int32" if unknown or math.prod(number) < 2**31 else "int64"
        groups = tf.cast(tf.shape(rows)[0], dtype)
        first = tf.range(groups)[:, None] * tf.cast(total, dtype)
        numbered = tf.reshape(tf.cast(index, dtype) + first, (-1,))
        added = tf.math.unsorted_segment_sum(
            tf.reshape(rows, (-1, features)),
            numbered,
            groups * tf.cast(total, dtype),
        )
        return tf.reshape(added, (-1, total, features))
    # Keras' segment_sum goes through float32, float64 too. Not index_add,
    # which is wrong in ONNX where an index comes twice.
    groups = rows.shape[0]
    zeros = rows.new_zeros((groups * total, features))
    flat = rows.reshape(-1, features)
    numbered = _numbered(index, total)[:, None].expand(flat.shape)
    added = zeros.scatter_add(0, numbered, flat)
    return added.reshape(groups, total, features)


def wide(dtype) -> str:
    """The dtype in which many numbers of a dtype add up: float32 or more."""
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype if dtype == "float64" else "float32"


def inverse(order):
    """The inverse of a permutation: int32 (P,) -> int32 (P,)."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax.numpy as jnp

        places = jnp.arange(order.shape[0], dtype=order.dtype)
        return jnp.zeros_like(order).at[order].set(places, unique_indices=True)
    if backend == "tensorflow":
        import tensorflow as tf

        # Not invert_permutation, which LiteRT does not have.
        number = tf.shape(order)[0]
        places = tf.range(number, dtype=order.dtype)
        return tf.math.unsorted_segment_sum(places, order, number)
    places = ops.arange(0, order.shape[0], dtype="int32")
    index = ops.cast(order, "int64")
    return ops.zeros_like(order).scatter(0, index, places)


def _take_on_jax(rows, index):
    import jax

    if not _numbers_through(rows.shape[0], rows.shape[1]):
        return jax.vmap(_take)(rows, index)
    groups, number, features = rows.shape
    flat = rows.reshape(-1, features)
    taken = ops.take(flat, _numbered_on_jax(index, number), axis=0)
    return taken.reshape(groups, index.shape[1], features)


def _add_on_jax(rows, index, total):
    import jax

    add = functools.partial(jax.ops.segment_sum, num_segments=total)
    if not _numbers_through(rows.shape[0], total):
        return jax.vmap(add)(rows, index)
    groups, _, features = rows.shape
    flat = rows.reshape(-1, features)
    added = ops.segment_sum(
        flat, _numbered_on_jax(index, total), num_segments=groups * total
    )
    return added.reshape(groups, total, features)


def _numbers_through(groups, number):
    """Whether JAX may count rows through: on one device, and within int32.

    Exporters know that form alone.
    """
    import jax

    known = isinstance(groups, int) and isinstance(number, int)
    few = not known or groups * number < 2**31
    return few and jax.device_count() == 1


def _take(rows, index):
    return rows[index]


def _numbered_on_jax(index, number):
    groups = ops.arange(0, index.shape[0], dtype="int32")
    return (index + (groups * number)[:, None]).reshape(-1)


def _numbered(index, number):
    """PyTorch: int64 (G·M,), counted through over groups of `number` rows.

    Its take and its sum along one axis of two are the quick ones.
    """
    index = ops.cast(index, "int64")
    first = ops.arange(0, index.shape[0], dtype="int64") * number
    return (index + first[:, None]).reshape(-1)

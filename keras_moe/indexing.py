"""Take rows by index and add rows up by index, each group by itself.

Indices count inside their group. Numbered through over all groups they would
reach 2^31 sooner, and a program for many devices that each hold some of the
groups would have to gather all of them on each device.
"""

import keras
from keras import ops


def take(rows, index):
    """Rows by index: (G,N,D), int32 (G,M) -> (G,M,D).

    Args:
        rows: (G,N,D).
        index: int32 (G,M), from 0 to N - 1.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.vmap(lambda rows, index: rows[index])(rows, index)
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
        import jax

        def add_group(rows, index):
            return jax.ops.segment_sum(rows, index, num_segments=total)

        return jax.vmap(add_group)(rows, index)
    if backend == "tensorflow":
        import tensorflow as tf

        groups = tf.shape(rows, "int64")[0]
        number = tf.cast(total, "int64")
        first = tf.range(groups)[:, None] * number
        added = tf.math.unsorted_segment_sum(
            rows, tf.cast(index, "int64") + first, groups * number
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


def _numbered(index, number):
    """PyTorch: int64 (G·M,), counted through over groups of `number` rows.

    Its take and its sum along one axis of two are the quick ones.
    """
    index = ops.cast(index, "int64")
    first = ops.arange(0, index.shape[0], dtype="int64") * number
    return (index + first[:, None]).reshape(-1)

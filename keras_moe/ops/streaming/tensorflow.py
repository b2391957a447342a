"""Streaming on TensorFlow: loops over groups and blocks, with own gradient."""

import tensorflow as tf

from keras_moe.ops.streaming.blocks import blocks


def dispatch(inputs, slots, tokens, mask):
    """(G,T,D), (N,D), (G,T,D), (G,T) -> (G,N,D)."""
    groups = tf.shape(tokens)[0]
    queries = tf.broadcast_to(slots, (groups, *slots.shape))
    return _attend(queries, tokens, inputs, mask)


def combine(inputs, slots, tokens, mask):
    """(G,N,D), (N,D), (G,T,D), (G,T) -> (G,T,D)."""
    groups = tf.shape(tokens)[0]
    keys = tf.broadcast_to(slots, (groups, *slots.shape))
    outputs = _attend(tokens, keys, inputs, None)
    if mask is not None:
        outputs = tf.where(mask[:, :, None], outputs, 0.0)
    return outputs


def _weights(rows, keys, mask=None):
    """Softmax (R,K) of a block of rows; zero where masked."""
    logits = tf.matmul(rows, keys, transpose_b=True)
    if mask is None:
        return tf.nn.softmax(logits)
    logits = tf.where(mask, logits, -1e30)
    return tf.where(mask, tf.nn.softmax(logits), 0.0)


def _attend(queries, keys, values, mask):
    """(G,Q,D), (G,K,D), (G,K,V), (G,K) -> (G,Q,V), group by group."""
    dtype = values.dtype
    masks = () if mask is None else (mask,)
    turned = tf.linalg.matrix_transpose

    @tf.custom_gradient
    def outputs_and_gradient(queries, keys, values):
        length, columns = tf.shape(queries)[1], tf.shape(keys)[1]
        number, size = blocks(length, columns)

        def split(rows):
            """(Q,·) -> (blocks, size, ·), with zeros at the end."""
            padding = number * size - length
            rows = tf.pad(rows, ((0, padding), (0, 0)))
            return tf.reshape(rows, (number, size, rows.shape[-1]))

        def join(rows):
            return tf.reshape(rows, (-1, rows.shape[-1]))[:length]

        def forward(group):
            queries, keys, values, *masks = group

            def block(rows):
                weights = tf.cast(_weights(rows, keys, *masks), dtype)
                return tf.matmul(weights, values)

            return join(_map(block, split(queries), dtype))

        outputs = _map(forward, (queries, keys, values, *masks), dtype)

        def one_backward(group):
            queries, keys, values, outputs, grad, *masks = group
            shared = tf.cast(outputs, keys.dtype) * tf.cast(grad, keys.dtype)
            shared = tf.reduce_sum(shared, -1, keepdims=True)

            def block(sums, blocks):
                by_keys, by_values = sums
                rows, grad, shared = blocks
                weights = _weights(rows, keys, *masks)
                by_values += tf.matmul(
                    grad, tf.cast(weights, dtype), transpose_a=True
                )
                by_weights = tf.matmul(grad, values, transpose_b=True)
                by_weights = tf.cast(by_weights, keys.dtype) - shared
                logits = weights * by_weights
                by_keys += tf.matmul(rows, logits, transpose_a=True)
                return by_keys, by_values, tf.matmul(logits, keys)

            # Both sums are the other way round, (D,K) and (V,K), until all is
            # added up: CPUs are slow at products whose first array is large
            # and transposed.
            by_queries, *sums = _accumulate(
                block,
                tuple(
                    tf.zeros((x.shape[-1], columns), x.dtype)
                    for x in (keys, values)
                ),
                tuple(split(x) for x in (queries, grad, shared)),
                join,
            )
            return by_queries, *map(turned, sums)

        def backward(grad):
            saved = (queries, keys, values, outputs, grad, *masks)
            types = (queries.dtype, keys.dtype, dtype)
            return _map(one_backward, saved, types)

        return outputs, backward

    return outputs_and_gradient(queries, keys, values)


def _map(function, arrays, dtype):
    return tf.map_fn(
        function, arrays, parallel_iterations=1, fn_output_signature=dtype
    )


def _accumulate(function, sums, arrays, join):
    """Loop over blocks: two sums add up, the third is put side by side."""
    number = tf.shape(arrays[0])[0]
    rows = tf.TensorArray(arrays[0].dtype, number)

    def step(i, by_keys, by_values, rows):
        blocks = tuple(x[i] for x in arrays)
        *sums, by_rows = function((by_keys, by_values), blocks)
        return i + 1, *sums, rows.write(i, by_rows)

    _, *sums, rows = tf.while_loop(
        lambda i, *_: i < number,
        step,
        (0, *sums, rows),
        parallel_iterations=1,
    )
    return join(rows.stack()), *sums

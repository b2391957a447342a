"""Chunks of pairs on TensorFlow."""

import tensorflow as tf


def register(cls, static, arrays):
    """TensorFlow needs no word of structures."""


def loop(number, step, start):
    _, state = tf.while_loop(
        lambda chunk, state: chunk < number,
        lambda chunk, state: (chunk + 1, step(chunk, state)),
        (0, start),
        parallel_iterations=1,
    )
    return state


def products(images, texts):
    """Gradients by images, N times (R,D), and by texts (B,D), zeros."""
    number = tf.shape(images)[1]
    rows = tf.TensorArray(
        images.dtype, number, element_shape=images[:, 0].shape
    )
    return rows, tf.zeros_like(texts)


def add(products, chunk, gradient, images, texts):
    """Add what a chunk's gradient by its logits (R,B) makes of them."""
    rows, by_texts = products
    rows = rows.write(chunk, tf.matmul(gradient, texts))
    return rows, by_texts + tf.matmul(gradient, images, transpose_a=True)


def joined(products):
    """Gradients by images (R,N,D) and by texts (B,D)."""
    rows, by_texts = products
    return tf.transpose(rows.stack(), (1, 0, 2)), by_texts


def with_gradient(function, forward, backward):
    """As `keras_moe.ops.jax_gradients.with_gradient`."""

    def differentiable(arrays, context):
        @tf.custom_gradient
        def known(*arrays):
            outputs, saved = forward(arrays, context)

            @tf.custom_gradient
            def gradient(grad, *arrays):
                def derive(*changes):
                    inputs = (grad, *arrays)
                    with tf.GradientTape() as outer:
                        outer.watch(inputs)
                        with tf.GradientTape() as inner:
                            inner.watch(arrays)
                            value = function(arrays, context)
                        grads = inner.gradient(value, arrays, grad)
                    return outer.gradient(grads, inputs, changes)

                return backward(arrays, context, saved, grad), derive

            return outputs, lambda grad: gradient(grad, *arrays)

        return known(*arrays)

    return differentiable

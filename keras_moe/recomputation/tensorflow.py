"""Recomputation on TensorFlow."""

import contextlib

import keras
import tensorflow as tf

from keras_moe.recomputation.order import behind


def checkpoint(function, values, tensors):
    """Call a function whose gradient keeps its arguments alone.

    Args:
        function: `(values, tensors) -> (outputs, losses, moved)`; `moved` has
            new values by their index in `values`.
        values: of variables.
        tensors: further arguments.
    """
    count = len(values)
    structures = []

    def compute(arrays):
        return function(arrays[:count], arrays[count:])

    @tf.custom_gradient
    def first(*arrays):
        with _off_tape():
            results = compute(arrays)
        structures.append(results)

        def gradients(*grads):
            grads = [tf.convert_to_tensor(grad) for grad in grads]
            again = arrays
            if not tf.executing_eagerly():
                floating = [g for g in grads if g.dtype.is_floating]
                values, tensors = behind(
                    arrays[:count], arrays[count:], floating
                )
                again = [*values, *tensors]
            return _gradients(compute, again, grads)

        return keras.tree.flatten(results), gradients

    leaves = first(*map(tf.convert_to_tensor, [*values, *tensors]))
    return keras.tree.pack_sequence_as(structures[0], leaves)


def _off_tape():
    """Keep the first run from the tape, which would hold its activations.

    A graph holds what its gradients read, whatever its tape has seen.
    """
    if tf.executing_eagerly():
        return tf.init_scope()
    return contextlib.nullcontext()


def _gradients(compute, arrays, grads):
    """Gradients of arrays by those of the results; `None` of integers."""
    places = [i for i, array in enumerate(arrays) if array.dtype.is_floating]
    sources = [arrays[place] for place in places]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        results = keras.tree.flatten(compute(arrays))
    pairs = [
        (result, grad)
        for result, grad in zip(results, grads)
        if result.dtype.is_floating
    ]
    found = tape.gradient(
        [result for result, _ in pairs],
        sources,
        output_gradients=[grad for _, grad in pairs],
    )
    gradients = [None] * len(arrays)
    for place, gradient in zip(places, found):
        if gradient is not None:  # dense, where a layer looks up rows
            gradients[place] = tf.convert_to_tensor(gradient)
    return gradients

"""Recomputation on TensorFlow."""

import contextlib

import keras
import tensorflow as tf


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
            return _gradients(compute, _behind(arrays, count, grads), grads)

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


def _behind(arrays, count, grads):
    """Arrays that depend on the gradients, of which they have 0.

    Without it compilers find both runs to be equal and compute one, early.
    Kernels stay as they are: what is computed of them and of no input is kept.

    Args:
        arrays: values of variables and inputs.
        count: how many of them are values.
        grads: gradients of the results.
    """
    if tf.executing_eagerly():
        return list(arrays)
    # Compilers do not know that this is 0, or NaN where a gradient is.
    parts = [
        tf.reduce_sum(tf.minimum(tf.abs(tf.reshape(grad, (-1,))[:1]), 0))
        for grad in grads
        if grad.dtype.is_floating
    ]
    zero = tf.add_n([tf.cast(part, "float32") for part in parts])
    tied = []
    for index, array in enumerate(arrays):
        is_input = array.dtype.is_floating and index >= count
        if is_input or array.dtype.is_integer:  # seeds are integers
            array = array + tf.cast(zero, array.dtype)
        tied.append(array)
    return tied


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

"""Run functions and layers on any backend, compiled, and get numpy back."""

import keras
import numpy as np

BACKEND = keras.backend.backend()


def numpy(structure):
    """A structure of tensors as one of numpy arrays."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, structure)


def run(function, *arrays):
    """`function` of the arrays as tensors, compiled where that is faster.

    Arrays may be `None`. Returns numpy arrays in the structure of the result.
    """
    if BACKEND == "jax":
        import jax

        return numpy(jax.jit(function)(*arrays))
    arrays = [
        None if a is None else keras.ops.convert_to_tensor(a) for a in arrays
    ]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return numpy(tf.function(function)(*arrays))
    return numpy(function(*arrays))


def compiled(function):
    """`function` of arrays, compiled once: for calls that share a shape."""
    if BACKEND == "jax":
        import jax

        function = jax.jit(function)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)

    def call(*arrays):
        tensors = [
            None if a is None else keras.ops.convert_to_tensor(a)
            for a in arrays
        ]
        return numpy(function(*tensors))

    return call


def value_and_grads(function, *arrays):
    """Value and gradients of a scalar function, with respect to every array.

    `function` may return `(scalar, more)`; then `(scalar, more)` comes back.
    """
    arrays = [np.asarray(a) for a in arrays]

    def pair(*tensors):
        result = function(*tensors)
        return result if isinstance(result, tuple) else (result, ())

    if BACKEND == "jax":
        import jax

        grad = jax.value_and_grad(
            pair, argnums=tuple(range(len(arrays))), has_aux=True
        )
        (value, more), grads = jax.jit(grad)(*arrays)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def compiled(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value, more = pair(*tensors)
            return (
                value,
                more,
                tape.gradient(value, tensors, unconnected_gradients="zero"),
            )

        value, more, grads = compiled(*map(tf.constant, arrays))
    else:
        import torch

        tensors = [
            keras.ops.convert_to_tensor(a).clone().requires_grad_()
            for a in arrays
        ]
        value, more = pair(*tensors)
        grads = torch.autograd.grad(value, tensors, allow_unused=True)
        grads = [
            torch.zeros_like(t) if g is None else g
            for t, g in zip(tensors, grads)
        ]
        value, more = keras.tree.map_structure(
            lambda t: t.detach(), (value, more)
        )
    value, grads = numpy(value), [numpy(g) for g in grads]
    if not isinstance(more, tuple) or more != ():
        return (value, numpy(more)), grads
    return value, grads


def layer_grads(layer, inputs, cotangent, mask=None, training=False, aux=0.0):
    """Outputs of a built layer, its losses, and gradients by name.

    The loss is `sum(outputs * cotangent) + aux * sum(losses)`. Gradients come
    in a dictionary: `"inputs"`, and the path of each trainable weight below
    the layer, such as `"experts/up/kernel"`.
    """
    weights = [v.value for v in layer.trainable_variables]
    states = [v.value for v in layer.non_trainable_variables]

    if mask is not None:
        mask = keras.ops.convert_to_tensor(mask)

    def loss(x, *values):
        outputs, _, losses = layer.stateless_call(
            list(values),
            states,
            x,
            mask=mask,
            training=training,
            return_losses=True,
        )
        # A sum in half precision is coarse, and numpy cannot hold bfloat16.
        outputs = keras.ops.cast(outputs, layer.variable_dtype)
        fixed = keras.ops.convert_to_tensor(cotangent)
        value = keras.ops.sum(outputs * fixed)
        losses = list(losses)
        for one in losses:
            value = value + aux * one
        return value, (outputs, losses)

    arrays = [inputs, *(numpy(w) for w in weights)]
    (_, (outputs, losses)), grads = value_and_grads(loss, *arrays)
    named = {"inputs": grads[0]}
    for variable, grad in zip(layer.trainable_variables, grads[1:]):
        named[weight_name(layer, variable)] = grad
    return outputs, losses, named


def weight_name(layer, variable):
    """Path of a weight below its layer."""
    return variable.path.removeprefix(layer.path + "/")


def set_weights(layer, values):
    """Assign `{name: array}` to a built layer; every weight exactly once."""
    variables = {weight_name(layer, v): v for v in layer.weights}
    assert set(values) == set(variables), (set(values), set(variables))
    for name, value in values.items():
        variables[name].assign(np.asarray(value))

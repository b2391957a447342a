"""The experts' exact GELU is Keras' own, in values and gradients."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe.ops import gelu
from keras_moe.ops import one_pass
from tests import support

VALUES = np.concatenate([np.linspace(-12, 12, 97), [0.0, 1e-6, 80.0, -80.0]])


def test_only_exact_gelu_has_another():
    relu = keras.activations.relu
    assert gelu.quickest(relu) is relu
    ours = gelu.quickest(keras.activations.gelu)
    has_own = support.BACKEND == "tensorflow"
    assert (ours is not keras.activations.gelu) == has_own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_values_and_gradients(dtype):
    ours = gelu.quickest(keras.activations.gelu)
    x = ops.cast(VALUES, dtype)
    tolerance = 2e-6 if dtype == "float32" else 0.02
    for order in (0, 1, 2):
        found, expected = (
            derivative(f, x, order) for f in (ours, keras.activations.gelu)
        )
        np.testing.assert_allclose(
            found, expected, rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_of_float32_are_compiled_in_one_pass(dtype):
    """TensorFlow's alone; with the same values and gradients as without."""
    ours = gelu.quickest(keras.activations.gelu)
    assert not one_pass.serves(dtype)  # there is no graph here
    if support.BACKEND != "tensorflow":
        return
    import tensorflow as tf

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = ours(x)
        return outputs, tape.gradient(outputs, x)

    x = ops.cast(VALUES, dtype)
    graph = tf.function(gradient).get_concrete_function(x)
    nodes = graph.graph.as_graph_def().node
    forward = [n for n in nodes if n.attr["_XlaCompile"].b]
    backward = [n for n in nodes if n.attr["_XlaMustCompile"].b]
    if dtype == "bfloat16":
        assert not forward and not backward
        return
    assert {"Erf", "Mul"} <= {n.op for n in forward}
    assert len(backward) == 1
    for found, expected in zip(graph(x), gradient(x)):
        # XLA's erf of what is far below zero is -1 to a rounding error.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def derivative(function, x, order):
    """Of this order, by the backend's own means, as float64."""
    if support.BACKEND == "jax":
        import jax

        for _ in range(order):
            function = summed(jax, function)
        result = function(x)
    elif support.BACKEND == "tensorflow":
        result = tensorflow_derivative(function, x, order)
    else:
        import torch

        x = x.clone().requires_grad_(order > 0)
        result = function(x)
        for _ in range(order):
            (result,) = torch.autograd.grad(result.sum(), x, create_graph=True)
    return ops.convert_to_numpy(ops.cast(result, "float32")).astype(float)


def summed(jax, function):
    return jax.grad(lambda x: function(x).sum())


def tensorflow_derivative(function, x, order):
    import tensorflow as tf

    if order == 0:
        return function(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        inner = tensorflow_derivative(function, x, order - 1)
    return tape.gradient(inner, x)

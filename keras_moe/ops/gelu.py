"""Exact GELU as it is quickest: on TensorFlow, one pass over the features.

    gelu(x) = x · Φ(x),   gelu'(x) = Φ(x) + x · φ(x)

with Φ and φ the normal distribution's. TensorFlow's CPUs take .22 to .34 of the
time of Keras' own so (tests/benchmarks/results/gelu-tensorflow-*.csv); JAX's
GELU is fused by its compiler anyway, and PyTorch's is one kernel.
"""

import functools
import math

import keras

from keras_moe.ops import one_pass


def quickest(activation):
    """The same function of hidden features, as this backend is quick at it."""
    if keras.backend.backend() != "tensorflow":
        return activation
    exact = activation is keras.activations.gelu
    return _with_gradient if exact else activation


def _with_gradient(x):
    import tensorflow as tf

    @tf.custom_gradient
    def gelu(x):
        with one_pass.wanted(x.dtype):
            error = tf.math.erf(x * math.sqrt(0.5))
            # To the bit x * Φ(x), written as converters to LiteRT know it.
            outputs = 0.5 * x * (1.0 + error)

        def backward(grad):
            if one_pass.serves(x.dtype):
                return _compiled_backward()(x, grad)
            return grad * _slope(x, 0.5 + 0.5 * error)

        return outputs, backward

    return gelu(tf.convert_to_tensor(x))


@functools.cache
def _compiled_backward():
    """The gradient, in one pass over features and the gradient after them.

    A request is half as quick here as a function that must be compiled, and no
    exported program has this one.
    """
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def backward(x, grad):
        return grad * _slope(x, _cumulated(x))

    return backward


def _slope(x, cumulated):
    import tensorflow as tf

    density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return cumulated + x * density


def _cumulated(x):
    import tensorflow as tf

    # erfc would keep the digits of small results, but has no way to ONNX.
    return 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

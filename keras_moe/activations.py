"""Activations that Keras does not name, and one look-up for all of them."""

import keras
from keras import ops

from keras_moe.ops.experts import gelu_of_erf

__all__ = [
    "exportable",
    "gelu_tanh",
    "get",
    "serialize",
]


@keras.saving.register_keras_serializable(package="keras_moe")
def gelu_tanh(x):
    """GELU in its tanh form, which the vmoe and GPT-2 codes use.

    x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))). `"gelu"` in Keras is the
    exact form, with erf.
    """
    return ops.gelu(x, approximate=True)


def get(identifier):
    """`keras.activations.get`, which also knows `"gelu_tanh"`."""
    if isinstance(identifier, str) and identifier == "gelu_tanh":
        return gelu_tanh
    return keras.activations.get(identifier)


def serialize(activation):
    """Serialise an activation to what `get` reads."""
    if activation is gelu_tanh:
        return "gelu_tanh"
    return keras.activations.serialize(activation)


def exportable(activation):
    """The same function, in operators that formats of other runtimes have.

    TensorFlow's own exact GELU is x/2 · erfc(-x/√2), and ONNX has no erfc.
    """
    if keras.backend.backend() != "tensorflow":
        return activation
    exact = activation is keras.activations.gelu
    return gelu_of_erf if exact else activation

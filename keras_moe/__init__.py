"""Mixture-of-experts layers for Keras 3, on JAX, TensorFlow and PyTorch."""

from keras_moe import activations as activations
from keras_moe import constraints as constraints
from keras_moe import diagnostics as diagnostics
from keras_moe import distribution as distribution
from keras_moe import initializers as initializers
from keras_moe import layers as layers
from keras_moe import losses as losses
from keras_moe import ops as ops
from keras_moe import routing as routing
from keras_moe import samples as samples


def __getattr__(name):
    # Upcycling needs KerasHub, which the layers do without.
    if name == "upcycle":
        from keras_moe.upcycling import upcycle

        return upcycle
    raise AttributeError(f"module 'keras_moe' has no attribute {name!r}")


__version__ = "0.1.0"

"""Mixture-of-experts layers for Keras 3, on JAX, TensorFlow and PyTorch."""

# First, as the others import Keras, which takes seconds.
from keras_moe import starting as _starting  # noqa: F401

# isort: split

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

# Modules that are imported when they are asked for: some need more packages,
# which the layers do without, and their errors name the extra to install.
_LAZY = ("kerashub", "models", "planning", "upcycling", "visualize")
# Functions, and the modules that have them.
_FUNCTIONS = {
    "enable_expert_lora": "kerashub",
    "load_expert_lora": "kerashub",
    "merge_expert_lora": "kerashub",
    "quantize_experts": "kerashub",
    "quantize_while_loading": "kerashub",
    "save_expert_lora": "kerashub",
    "upcycle": "upcycling",
    "use_dense_experts": "kerashub",
    "use_sparse_experts": "kerashub",
}


def __getattr__(name):
    import importlib

    if name in _LAZY:
        return importlib.import_module(f"keras_moe.{name}")
    if name in _FUNCTIONS:
        module = importlib.import_module(f"keras_moe.{_FUNCTIONS[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'keras_moe' has no attribute {name!r}")


__all__ = [
    "activations",
    "constraints",
    "diagnostics",
    "distribution",
    "initializers",
    "layers",
    "losses",
    "ops",
    "routing",
    "samples",
]


def __dir__():
    return sorted({*__all__, *_LAZY, *_FUNCTIONS, "__version__"})


__version__ = "0.1.0"

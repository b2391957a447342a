"""A layer's training step in which the host waits for nothing, on PyTorch.

Shared by the tests, on a CPU that says it is a GPU, and by the checks on a GPU.
"""

import contextlib
from unittest import mock

import keras
import numpy as np
from keras import ops

from keras_moe.ops import selection
from tests import contract_table

LABELS = list(contract_table.LAYERS)
# A value comes to the host; a Python number or array goes to the device.
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "item")
COPIES = ("lift_fresh",)
SHAPE = (contract_table.BATCH, contract_table.TOKENS)


def refusing_waits():
    """Make a mode under which whatever lets the host wait raises."""
    from torch.utils import _python_dispatch

    class RefusingWaits(_python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if name in READS:
                raise AssertionError(f"a value is read by aten.{name}")
            if name in COPIES:
                raise AssertionError(
                    f"a number is copied from the host by aten.{name}"
                )
            return function(*args, **(kwargs or {}))

    return RefusingWaits()


def built(label, **more):
    """The layer of a row of the contract table, its tokens and a mask."""
    layer = contract_table.make(label, **more)
    layer.build((*SHAPE, contract_table.FEATURES))
    tokens = ops.convert_to_tensor(contract_table.tokens_of(*SHAPE))
    mask = np.tile(np.arange(SHAPE[1]) < 6, (SHAPE[0], 1))
    return layer, tokens, ops.convert_to_tensor(mask)


def train(layer, tokens, mask, within=refusing_waits):
    """Outputs, losses and gradients, and outputs alone, within a context."""
    tokens = tokens.detach().requires_grad_()
    with within():
        outputs = layer(tokens, mask=mask, training=True)
        value = sum(layer.losses, ops.sum(outputs * outputs))
        value.backward()
        layer(tokens, mask=mask, training=False)
    assert tokens.grad is not None


@contextlib.contextmanager
def without_seeds():
    """Keras reads the seed of random numbers, here of noise and dropout."""

    def normal(shape, stddev, dtype, seed):
        return ops.ones(shape, dtype) * stddev

    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        return ops.ones(shape, dtype) * (minval + maxval) * 0.5

    with (
        mock.patch.object(keras.random, "normal", normal),
        mock.patch.object(keras.random, "uniform", uniform),
        mock.patch.object(keras.random, "dropout", lambda x, *a, **k: x),
    ):
        yield


def on_a_gpu():
    """Let "auto" choose as on a GPU."""
    return mock.patch.object(selection, "kind_of", lambda array: "gpu")

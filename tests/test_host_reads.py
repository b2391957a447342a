"""On a GPU no layer waits for a value, forward or backward.

Checked on a CPU that says it is one, with PyTorch, whose eager calls show every
read. On JAX and TensorFlow a compiled program holds no such read.
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.ops import selection
from tests import contract_table
from tests import support

ON_TORCH = support.BACKEND == "torch"
# The cap of Expert Choice asks on PyTorch after each round whether to go on.
LABELS = [n for n in contract_table.LAYERS if n != "choice_capped"]
LABELS = LABELS if ON_TORCH else []
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "item")


def refusing_reads():
    """A mode under which whatever brings a value to the host raises."""
    from torch.utils import _python_dispatch

    class RefusingReads(_python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if name in READS:
                raise AssertionError(f"a value is read by aten.{name}")
            return function(*args, **(kwargs or {}))

    return RefusingReads()


def train(layer, tokens, mask):
    """A forward pass with losses and its gradients, of no value read."""
    tokens = ops.convert_to_tensor(tokens).requires_grad_()
    mask = None if mask is None else ops.convert_to_tensor(mask)
    with refusing_reads():
        outputs = layer(tokens, mask=mask, training=True)
        value = sum(layer.losses, ops.sum(outputs * outputs))
        value.backward()
    assert tokens.grad is not None


def normal(shape, stddev, dtype, seed):
    """Noise as `keras.random.normal` draws it, whose seed nobody reads."""
    return ops.ones(shape, dtype) * stddev


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("label", LABELS)
def test_no_layer_reads_a_value_on_a_gpu(label, masked, monkeypatch):
    monkeypatch.setattr(selection, "kind_of", lambda array: "gpu")
    # Keras reads the seed of its random numbers, here those of noise.
    monkeypatch.setattr(keras.random, "normal", normal)
    monkeypatch.setattr(keras.random, "dropout", lambda x, *a, **k: x)
    shape = (contract_table.BATCH, contract_table.TOKENS)
    layer = contract_table.make(label)
    layer.build((*shape, contract_table.FEATURES))
    mask = np.arange(shape[1]) < 6 if masked else None
    mask = None if mask is None else np.tile(mask, (shape[0], 1))
    train(layer, contract_table.tokens_of(*shape), mask)


@pytest.mark.parametrize("device", ["cpu", "gpu"] if ON_TORCH else [])
def test_reads_are_noticed(device, monkeypatch):
    """The branch that "cpu" takes by the value of `scale` is one."""
    monkeypatch.setattr(selection, "kind_of", lambda array: device)
    name = "cpu" if device == "cpu" else "auto"
    layer = layers.SoftMoE(4, 2, intermediate_dim=8, implementation=name)
    layer.build((2, 8, 6))
    tokens = contract_table.tokens_of(2, 8)
    if device == "gpu":
        train(layer, tokens, None)
        return
    with pytest.raises(AssertionError, match="a value is read by aten"):
        train(layer, tokens, None)

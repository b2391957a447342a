"""On a GPU no layer waits for a value, forward or backward.

Nor for a number of its own on its way to the device. Checked on a CPU that says
it is a GPU, with PyTorch, whose eager calls show every read and every copy. On
JAX and TensorFlow a compiled program holds no such read.
"""

import pytest
from keras import ops

from keras_moe import layers
from tests import contract_table
from tests import host_reads
from tests import support

ON_TORCH = support.BACKEND == "torch"
SOFT = ("reference", "logsumexp", "streaming")
STEPS = [
    *((label, "auto") for label in host_reads.LABELS),
    *(("soft", name) for name in SOFT),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("label, name", STEPS if ON_TORCH else [])
def test_no_layer_waits_on_a_gpu(label, name, masked):
    with host_reads.on_a_gpu(), host_reads.without_seeds():
        layer, tokens, mask = host_reads.built(label, implementation=name)
        host_reads.train(layer, tokens, mask if masked else None)


@pytest.mark.parametrize("masked", [False, True] if ON_TORCH else [])
def test_a_bounded_scale_waits_for_nothing(masked):
    """Which one exponential serves."""
    layer = layers.SoftMoE(4, 2, intermediate_dim=8, max_scale=3.0)
    layer.build((4, 8, contract_table.FEATURES))
    _, tokens, mask = host_reads.built("soft")
    with host_reads.on_a_gpu():
        host_reads.train(layer, tokens, mask if masked else None)


@pytest.mark.parametrize(
    "wait, told",
    [
        (lambda x: x.sum().item(), "a value is read by aten"),
        (lambda x: ops.where(x > 0, x, 0.0), "a number is copied"),
    ]
    if ON_TORCH
    else [],
)
def test_waits_are_noticed(wait, told):
    _, tokens, _ = host_reads.built("soft")
    with pytest.raises(AssertionError, match=told), host_reads.refusing_waits():
        wait(tokens)


@pytest.mark.parametrize("name", ["cpu"] if ON_TORCH else [])
def test_the_branch_of_cpu_is_noticed(name):
    """The one that it takes by the value of `scale`."""
    layer, tokens, _ = host_reads.built("soft", implementation=name)
    with pytest.raises(AssertionError, match="a value is read by aten"):
        host_reads.train(layer, tokens, None)

"""Dropless experts that are quantised or have adapters: chosen ones alone."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import support
from tests.ops.test_grouped import FEATURES
from tests.ops.test_grouped import close
from tests.ops.test_grouped import draw
from tests.ops.test_grouped import make
from tests.support import BACKEND

WAYS = ["int8", "int4", "int4 blocks", "lora", "lora of int8"]
if BACKEND != "torch":  # Keras' own gradient raises an error there
    WAYS.append("int8 weights")


def config_of(way):
    if way == "int8 weights":
        return keras.quantizers.Int8QuantizationConfig(
            weight_quantizer=keras.quantizers.AbsMaxQuantizer(axis=1),
            activation_quantizer=None,
        )
    block = 2 if way == "int4 blocks" else -1
    return keras.quantizers.Int4QuantizationConfig(block_size=block)


def prepared(way, implementation, experts=4, shape=(2, 6), **options):
    """A layer whose experts are quantised or have adapters, `way` says."""
    layer = make(experts, 2, shape, implementation, **options)
    rng = np.random.default_rng(3)
    for one in (layer.experts.up, layer.experts.gate, layer.experts.down):
        if way in ("int8", "lora of int8"):
            one.quantize("int8")
        elif way != "lora":
            one.quantize(way[:4], config=config_of(way))
        if "lora" in way:
            one.enable_lora(2)
            for weight in (one.lora_kernel_a, one.lora_kernel_b):
                weight.assign(rng.normal(size=weight.shape))
    return layer


# In 16 bits one way stands for all, as each takes long.
CASES = [*((way, "float32") for way in WAYS), ("int8", "mixed_bfloat16")]


@pytest.mark.parametrize("way, dtype", CASES)
def test_as_keras_computes(way, dtype):
    """Outputs and gradients as of Keras' own layers for every expert."""
    tokens, cotangent = draw(2, 2, 6, FEATURES)
    mask = np.random.default_rng(2).random((2, 6)) < 0.7
    (outputs, _, grads), (expected, _, right) = (
        support.layer_grads(
            prepared(way, name, dtype=dtype), tokens, cotangent, mask
        )
        for name in ("auto", "reference")
    )
    # Rows are rounded to 127 levels on both ways, now and then to another.
    tolerance = 0.02 if way in ("int8", "lora of int8") else 1e-5
    tolerance = 0.05 if dtype == "mixed_bfloat16" else tolerance
    close(
        ops.cast(outputs, "float32"), ops.cast(expected, "float32"), tolerance
    )
    assert grads.keys() == right.keys()
    adapters = [name for name in grads if "lora" in name]
    assert len(adapters) == (6 if "lora" in way else 0)
    for name in ["inputs", *adapters]:
        close(grads[name], right[name], tolerance)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", ["int8", "lora"])
def test_only_chosen_experts_are_made(way, compiled):
    """Poison in the others reaches nobody."""
    layer = prepared(way, "auto", 16, (1, 1), use_bias=False)
    tokens = draw(1, 1, FEATURES)
    expected = run_alone(layer, tokens, compiled)
    gates = tokens[0, 0] @ layer.router_kernel.numpy()
    others = np.argsort(-gates)[2:]
    for one in (layer.experts.up, layer.experts.gate, layer.experts.down):
        weight = one.kernel_scale if way == "int8" else one.lora_kernel_a
        values = weight.numpy().copy()
        values.reshape(16, -1)[others] = np.nan
        weight.assign(values)
    close(run_alone(layer, tokens, compiled), expected)


def run_alone(layer, tokens, compiled):
    call = support.compiled(layer) if compiled else layer
    return support.numpy(call(ops.convert_to_tensor(tokens)))

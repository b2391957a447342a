"""Widths of one, two and three against the oracle, where axes look alike.

An expert has as many rows as there are experts, so that a bias (E,1,1) could
be taken for one of the rows.
"""

import keras
import numpy as np
import pytest

from keras_moe import layers
from tests import oracle
from tests.built import UNDRAWN
from tests.built import Built
from tests.built import assert_close
from tests.layers.test_oracle import expected_expert_choice
from tests.layers.test_oracle import expected_token_choice

EXPERTS, BATCH, TOKENS = 4, 2, 4
WIDTHS = [(d, f) for d in (1, 2, 3) for f in (1, 2, 3)]
# Two slots of each expert in two groups; two examples at four positions.
LAYERS = {
    "soft": (layers.SoftMoE, 2, {}),
    "choice": (layers.ExpertChoiceMoE, 2.0, {"gated": True}),
    "token": (layers.TokenChoiceMoE, 2, {}),
    "mixture": (layers.MixtureOfTokens, 2, {}),
}


def make(label, hidden, **more):
    cls, number, options = LAYERS[label]
    return cls(EXPERTS, number, intermediate_dim=hidden, **options, **more)


def expected(label, built, inputs, mask, weights):
    if label == "choice":
        return expected_expert_choice(built, inputs, mask, weights)
    if label == "token":
        return expected_token_choice(built, inputs, mask, weights)
    exact = {name: w.astype("float64") for name, w in weights.items()}
    experts = built.experts(weights)
    if label == "mixture":
        return oracle.mixture_of_tokens(
            inputs, exact["router_kernel"], 2, experts
        )
    outputs, _, _ = oracle.soft_moe(
        inputs, exact["slot_embedding"], weights["scale"], experts
    )
    return outputs


@pytest.mark.parametrize("label", LAYERS)
@pytest.mark.parametrize("features, hidden", WIDTHS)
def test_narrow(label, features, hidden):
    layer = make(label, hidden, **UNDRAWN)
    built = Built(layer, (BATCH, TOKENS, features))
    inputs, mask, weights = built.draw(features + 10 * hidden, "none hidden")
    outputs, _ = built(inputs, mask, weights)
    assert_close(outputs, expected(label, built, inputs, mask, weights))


MODES = ("int8", "int4", "float8")


@pytest.mark.parametrize("features, hidden", [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("way", ["dropout", "lora", *MODES])
def test_narrow_as_keras_computes(way, features, hidden, quick_quantization):
    """The experts' other ways are those of the plain one."""
    layer = make("soft", hidden, dropout=0.5 if way == "dropout" else 0.0)
    shape = (BATCH, TOKENS, features)
    layer.build(shape)
    rng = np.random.default_rng(0)
    for weight in layer.experts.weights:
        if "seed" not in weight.name:
            weight.assign(rng.normal(size=weight.shape))
    slots = rng.normal(size=(BATCH, EXPERTS, 2, features)).astype("float32")
    plain = keras.ops.convert_to_numpy(layer.experts(slots))
    if way == "dropout":
        layer.experts.dropout.rate = 1e-9
    elif way == "lora":
        layer.experts.up.enable_lora(1)
        layer.experts.down.enable_lora(1)
    else:
        layer.experts.up.quantize(way)
        layer.experts.down.quantize(way)
    training = way == "dropout"
    outputs = layer.experts(slots, training=training)
    error = np.abs(keras.ops.convert_to_numpy(outputs) - plain).max()
    scale = np.abs(plain).max()
    assert error < scale * (0.15 if way in MODES else 1e-5)

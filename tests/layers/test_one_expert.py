"""One expert with a capacity slot for every token is the plain MLP."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from tests import support
from tests.built import UNDRAWN
from tests.built import assert_close

B, N, D = 3, 6, 4
PLAIN_MLP = {"intermediate_dim": 5, "activation": "relu", **UNDRAWN}


def draw():
    rng = np.random.default_rng(0)
    return rng.normal(size=(B, N, D)).astype("float32")


PLAIN = {
    "expert choice": lambda **o: layers.ExpertChoiceMoE(1, 1.0, **o),
    "capped": lambda **o: layers.ExpertChoiceMoE(
        1, 1.0, max_experts_per_token=1, **o
    ),
    "token choice": lambda **o: layers.TokenChoiceMoE(1, 1, **o),
    # A group of one token is mixed with nothing, …
    "mixture of one": lambda **o: layers.MixtureOfTokens(1, 1, **o),
    # … and the only expert is the best one.
    "mixture argmax": lambda **o: layers.MixtureOfTokens(
        1, 3, inference_mixing="argmax", **o
    ),
}


def plain_mlp(layer, inputs):
    up, down = layer.experts.up, layer.experts.down
    hidden = ops.matmul(inputs, up.kernel[0]) + up.bias[0]
    return (
        ops.matmul(keras.activations.relu(hidden), down.kernel[0])
        + (down.bias[0])
    )


def outputs_and_plain(layer, inputs):
    layer.build(inputs.shape)
    rng = np.random.default_rng(3)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return support.run(lambda x: (layer(x), plain_mlp(layer, x)), inputs)


@pytest.mark.filterwarnings("error:.*softmax.*:UserWarning")
@pytest.mark.parametrize("name", PLAIN)
def test_one_expert_is_the_plain_mlp(name):
    layer = PLAIN[name](**PLAIN_MLP)
    assert_close(*outputs_and_plain(layer, draw()))


def test_one_expert_of_soft_moe_is_the_plain_mlp_of_equal_tokens_only():
    """Soft MoE mixes even then; mixtures of equal tokens are that token."""
    layer = layers.SoftMoE(1, N, **PLAIN_MLP)
    outputs, plain = outputs_and_plain(layer, draw())
    assert np.abs(outputs - plain).max() > 1e-2
    equal = np.repeat(draw()[:, :1], N, axis=1)
    layer = layers.SoftMoE(1, N, **PLAIN_MLP)
    assert_close(*outputs_and_plain(layer, equal))

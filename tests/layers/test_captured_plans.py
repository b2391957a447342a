"""A captured plan is of the moment at which it was captured."""

import numpy as np
import pytest
from keras import ops

from keras_moe import diagnostics
from keras_moe import layers


@pytest.mark.parametrize(
    "layer_class, option",
    [
        (layers.SoftMoE, {"normalize": False}),
        (layers.SoftMoE, {"normalize": True}),
        (layers.MixtureOfTokens, {"learn_temperature": False}),
        (layers.MixtureOfTokens, {"learn_temperature": True}),
    ],
)
def test_captured_plan_outlives_a_change_of_weights(layer_class, option):
    layer = layer_class(3, 2, intermediate_dim=4, **option)
    inputs = np.random.default_rng(0).normal(size=(4, 5, 6))
    with diagnostics.capture() as plans:
        layer(inputs.astype("float32"))
    plan = plans[layer.path]
    before = [ops.convert_to_numpy(w) for w in plan.weights()]
    for number, weight in enumerate(layer.trainable_variables):
        weight.assign(weight * (2.0 + number))
    after = [ops.convert_to_numpy(w) for w in plan.weights()]
    np.testing.assert_array_equal(after, before)

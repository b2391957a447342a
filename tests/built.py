"""A layer compiled for one shape, random weights, and its oracle's experts."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tests import oracle
from tests import support

few = settings(derandomize=True, deadline=None, max_examples=4, database=None)
seeds = st.integers(0, 10**6)
# For layers whose weights a test draws itself: jax compiles every eager draw.
UNDRAWN = {"kernel_initializer": "zeros", "router_initializer": "zeros"}
MASKS = ("none hidden", "some hidden", "a sequence hidden")
ACTIVATIONS = {
    "gelu": oracle.gelu,
    "gelu_tanh": oracle.gelu_tanh,
    "relu": oracle.relu,
}


class Built:
    """A layer for one shape, compiled once for all values."""

    def __init__(self, layer, shape, training=False, noise=None):
        self.layer, self.shape = layer, shape
        layer.build(shape)
        if noise is not None:
            layer.noise = lambda shape, std: std * noise.reshape(shape)
        states = [v.value for v in layer.non_trainable_variables]

        def call(inputs, mask, *weights):
            outputs, _, losses = layer.stateless_call(
                list(weights),
                states,
                inputs,
                mask=mask,
                training=training,
                return_losses=True,
            )
            return outputs, losses

        self.call = support.compiled(call)

    def __call__(self, inputs, mask, weights):
        values = [
            weights[support.weight_name(self.layer, v)]
            for v in self.layer.trainable_variables
        ]
        return self.call(inputs, mask, *values)

    def draw(self, seed, hidden):
        """Inputs, a mask and weights by name."""
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=self.shape).astype("float32")
        mask = np.ones(self.shape[:2], bool)
        if hidden == "some hidden":
            mask = rng.random(self.shape[:2]) > 0.3
        elif hidden == "a sequence hidden":
            mask[0] = False
        weights = {}
        for variable in self.layer.trainable_variables:
            name = support.weight_name(self.layer, variable)
            value = rng.normal(size=variable.shape)
            if "temperature" in name:
                value = 0.5 + np.abs(value)
            weights[name] = value.astype("float32")
        return inputs, mask, weights

    def experts(self, weights):
        """The experts of the oracle with the weights of this layer."""
        projections = {}
        for name in ("up", "gate", "down"):
            kernel = weights.get(f"experts/{name}/kernel")
            bias = weights.get(f"experts/{name}/bias")
            if kernel is not None:
                kernel = kernel.astype("float64")
                bias = bias if bias is None else bias[:, 0]
                projections[name] = (kernel, bias)
        activation = self.layer.activation.__name__
        return oracle.MLP(projections, ACTIVATIONS[activation])


def assert_close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-4)

"""Experts' products have einsum's values and gradients, and Keras' ways."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.layers.experts import by_expert
from keras_moe.ops import products
from tests import support


def einsum(rows, kernels):
    return ops.einsum("end,edf->enf", rows, kernels)


def outcome(product, rows, kernels, dtype):
    """The product in float32, and gradients of a weighted sum of it."""
    shape = (*rows.shape[:2], kernels.shape[-1])
    weights = np.random.default_rng(1).normal(size=shape).astype("float32")

    def weighed(rows, kernels):
        made = product(ops.cast(rows, dtype), ops.cast(kernels, dtype))
        assert keras.backend.standardize_dtype(made.dtype) == dtype
        made = ops.cast(made, "float32")
        return ops.sum(made * ops.convert_to_tensor(weights)), made

    (_, made), grads = support.value_and_grads(weighed, rows, kernels)
    return [ops.convert_to_numpy(x) for x in (made, *grads)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "experts,count,features,hidden",
    [(5, 1, 3, 7), (3, products.FEW_ROWS, 8, 4), (2, 41, 6, 9)],
)
def test_values_and_gradients(experts, count, features, hidden, dtype):
    rng = np.random.default_rng(experts)
    rows = rng.normal(size=(experts, count, features)).astype("float32")
    kernels = rng.normal(size=(experts, features, hidden)).astype("float32")
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for found, expected in zip(
        outcome(products.of_experts, rows, kernels, dtype),
        outcome(einsum, rows, kernels, dtype),
    ):
        np.testing.assert_allclose(
            found, expected, rtol=tolerance, atol=tolerance * 10
        )


def record(monkeypatch, *names):
    """The names of these functions as they are called."""
    ran = []
    for name in names:
        own = getattr(products, name)

        def recorded(*arguments, name=name, own=own):
            ran.append(name)
            return own(*arguments)

        monkeypatch.setattr(products, name, recorded)
    return ran


def predicted(layer, tokens):
    return keras.Sequential([layer]).predict(tokens, verbose=0)


@pytest.mark.parametrize("tokens", [4, 2 * products.FEW_ROWS])
def test_what_is_quick_ran(tokens, monkeypatch):
    """As many rows as tokens, outside training."""
    few = tokens <= products.FEW_ROWS
    # PyTorch's bound: as many bytes as there are, or one more.
    monkeypatch.setattr(products, "LARGE", 4 * 3 * tokens * 8 + few)
    ran = record(
        monkeypatch, "_turned", "_one_by_one", "_mapped", "_some_at_a_time"
    )
    layer = layers.SoftMoE(3, tokens, intermediate_dim=8)
    ones = np.ones((1, tokens, 5), "float32")
    assert predicted(layer, ones).shape == (1, tokens, 5)
    expected = {
        "tensorflow": {"_turned"},
        "jax": {"_one_by_one" if few else "_mapped"},
        "torch": set() if few else {"_some_at_a_time"},
    }
    assert set(ran) == expected[support.BACKEND]


@pytest.mark.parametrize("options", [{}, {"gated": True, "use_bias": False}])
def test_experts_in_turn_are_all_at_once(options, monkeypatch):
    """Their outputs, in training and outside of it, and their gradients."""
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "AT_A_TIME", 2 * 40 * 6 * 4)  # two of five
    layer = layers.SoftMoE(5, 20, intermediate_dim=6, **options)
    tokens = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    cotangent = np.ones_like(tokens)
    layer.build(tokens.shape)
    experts = layer.experts

    def at_once(slots, training=None):
        rows, restore = by_expert(slots)
        hidden = experts.up(rows[None])
        if experts.gated:
            hidden = experts.gate(rows[None]) * hidden
        return restore(experts.down(hidden)[0])

    own = support.layer_grads(layer, tokens, cotangent)
    found = support.run(layer, tokens), predicted(layer, tokens)
    monkeypatch.setattr(experts, "call", at_once)
    expected = support.layer_grads(layer, tokens, cotangent)
    outputs = support.numpy(support.run(layer, tokens))
    for own_outputs in found:
        np.testing.assert_allclose(
            support.numpy(own_outputs), outputs, rtol=1e-5, atol=1e-6
        )
    keras.tree.map_structure(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        support.numpy(own),
        support.numpy(expected),
    )


FORWARD_MODE = [1, 2] if support.BACKEND == "jax" else []


@pytest.mark.parametrize("order", FORWARD_MODE)
@pytest.mark.parametrize("tokens", [4, 2 * products.FEW_ROWS])
def test_forward_mode(tokens, order):
    """JAX differentiates experts in both modes, and again."""
    import jax

    layer = layers.SoftMoE(
        3, tokens, intermediate_dim=8, implementation="reference"
    )
    layer.build((1, tokens, 5))
    rng = np.random.default_rng(0)
    x, change = rng.normal(size=(2, 1, tokens, 5)).astype("float32")

    def function(step):
        return layer(x + step * change).sum()

    forward, reverse = function, function
    for _ in range(order):
        forward, reverse = jax.jacfwd(forward), jax.grad(reverse)
    np.testing.assert_allclose(forward(0.0), reverse(0.0), rtol=1e-3)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_experts_are_quantised(mode):
    layer = layers.SoftMoE(4, 2, intermediate_dim=8)
    tokens = np.random.default_rng(0).normal(size=(2, 6, 16))
    before = ops.convert_to_numpy(layer(tokens))
    layer.experts.up.quantize(mode)
    layer.experts.down.quantize(mode)
    assert mode in layer.experts.up.dtype_policy.name
    after = ops.convert_to_numpy(layer(tokens))
    assert 0 < np.abs(after - before).max() < 0.5 * np.abs(before).max()

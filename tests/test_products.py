"""Experts' products have einsum's values and gradients, and Keras' ways."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.ops import products
from tests import support

EQUATION = "end,edf->enf"


def einsum(rows, kernels):
    return ops.einsum(EQUATION, rows, kernels)


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


def test_the_gradient_by_hand_ran(monkeypatch):
    """Where there is one, a layer's gradient is made of it."""
    ran = []
    for name in ("_tensorflow", "_one_by_one"):
        own = getattr(products, name)
        monkeypatch.setattr(
            products, name, lambda *a, own=own: ran.append(own) or own(*a)
        )
    layer = layers.SoftMoE(4, 2, intermediate_dim=8)
    layer(np.ones((1, 6, 5), "float32"))
    expected = {"tensorflow": "_tensorflow", "jax": "_one_by_one"}
    assert {f.__name__ for f in ran} == {
        name for b, name in expected.items() if b == support.BACKEND
    }


def test_many_rows_are_one_product(monkeypatch):
    """Beyond `FEW_ROWS`, JAX takes the product as it is."""
    monkeypatch.setattr(products, "_one_by_one", None)
    rows = np.ones((2, products.FEW_ROWS + 1, 3), "float32")
    found = products.of_experts(
        ops.convert_to_tensor(rows), np.ones((2, 3, 4), "float32")
    )
    np.testing.assert_allclose(ops.convert_to_numpy(found), 3.0)


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

"""Experts: one function of arrays, with Keras' ways and every derivative."""

import operator

import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.ops.experts import experts_mlp
from tests import support

TUNED = ["cpu"] if support.BACKEND == "jax" else []


def outcome(product, rows, kernels):
    """The product, and gradients of a weighted sum of it."""
    shape = (*rows.shape[:2], kernels.shape[-1])
    weights = np.random.default_rng(1).normal(size=shape).astype("float32")

    def weighed(rows, kernels):
        made = product(rows, kernels)
        return ops.sum(made * ops.convert_to_tensor(weights)), made

    (_, made), grads = support.value_and_grads(weighed, rows, kernels)
    return [ops.convert_to_numpy(x) for x in (made, *grads)]


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("count", [1, 32, 33])
def test_values_and_gradients(name, count):
    from keras_moe.ops.cpu import jax as tuned

    rng = np.random.default_rng(count)
    rows = rng.normal(size=(3, count, 5)).astype("float32")
    kernels = rng.normal(size=(3, 5, 7)).astype("float32")
    for found, expected in zip(
        outcome(tuned.product, rows, kernels),
        outcome(operator.matmul, rows, kernels),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("rows", [2, 32, 33])
def test_experts_with_few_rows_are_taken_one_by_one(name, rows):
    """In a loop of the gradient, and nowhere else."""
    import jax

    layer = layers.SoftMoE(3, rows, intermediate_dim=8, implementation=name)
    layer.build((1, 6, 5))
    gradient = jax.make_jaxpr(jax.grad(lambda x: layer(x).sum()))
    text = str(gradient(np.ones((1, 6, 5), "float32")))
    assert ("scan" in text) == (rows <= 32)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_function_is_a_loop_over_experts(gated, biased):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 4, 5)).astype("float32")
    shapes = [(5, 7), (7, 5), *([(5, 7)] if gated else [])]
    weights = [
        (
            rng.normal(size=(3, *shape)).astype("float32"),
            rng.normal(size=(3, 1, shape[1])).astype("float32"),
        )
        for shape in shapes
    ]
    given = [(k, b if biased else None) for k, b in weights]

    def project(e, x, kernel, bias):
        return x @ kernel[e] + (0 if bias is None else bias[e])

    made = support.run(lambda rows: experts_mlp(rows, given, ops.tanh), rows)
    for e in range(3):
        hidden = project(e, rows[e], *given[0])
        if gated:
            hidden = np.tanh(project(e, rows[e], *given[2])) * hidden
        else:
            hidden = np.tanh(hidden)
        expected = project(e, hidden, *given[1])
        np.testing.assert_allclose(made[e], expected, rtol=1e-4, atol=1e-4)


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

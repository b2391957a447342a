"""Second derivatives of soft routing, in float64, whatever the scale."""

import contextlib

import numpy as np
import pytest
from keras import ops

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests import support

NAMES = [
    name
    for name, one in moe_ops.IMPLEMENTATIONS.items()
    if "soft" in one.plans and support.BACKEND in one.backends
]
SHAPES = ((2, 5, 3), (3, 2, 2))  # tokens (G,T,D), slot embeddings (D,E,S)


def exact():
    """float64, which JAX has to be told."""
    if support.BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def loss(name, max_scale, mask):
    def function(tokens, embeddings, scale):
        plan = routing.soft_moe(
            tokens, embeddings, scale, max_scale=max_scale, mask=mask
        )
        dispatcher = moe_ops.make_dispatcher(plan, "float64", name)
        slots = dispatcher.dispatch(tokens)
        slots = slots + ops.square(slots)
        return ops.sum(ops.square(dispatcher.combine(slots)))

    return function


def gradient(function, direction=None):
    """Of arrays: the gradient, or that of its product with a direction."""

    def along(grads):
        return sum(ops.sum(g * d) for g, d in zip(grads, direction))

    if support.BACKEND == "jax":
        import jax

        first = jax.grad(function, argnums=(0, 1, 2))
        if direction is None:
            return jax.jit(first)
        second = jax.grad(lambda *a: along(first(*a)), argnums=(0, 1, 2))
        return jax.jit(second)
    if support.BACKEND == "tensorflow":
        import tensorflow as tf

        def derive(*arrays):
            with tf.GradientTape() as outer:
                outer.watch(arrays)
                with tf.GradientTape() as inner:
                    inner.watch(arrays)
                    value = function(*arrays)
                grads = inner.gradient(value, arrays)
                if direction is None:
                    return grads
                value = along(grads)
            return outer.gradient(value, arrays)

        return derive
    import torch

    def derive(*arrays):
        arrays = [a.detach().requires_grad_() for a in arrays]
        again = direction is not None
        grads = torch.autograd.grad(
            function(*arrays), arrays, create_graph=again
        )
        return torch.autograd.grad(along(grads), arrays) if again else grads

    return derive


@pytest.mark.parametrize("scale", [1.0, 39.0, 41.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name, scale):
    """The change of the gradient along a direction, by small steps."""
    if name == "shared_exp" and scale > 40:
        return  # refused, tests/ops/test_soft_routing.py
    rng = np.random.default_rng(0)
    mask = np.ones((2, 5), bool)
    mask[0, 3:] = False
    arrays = [rng.normal(size=shape) for shape in SHAPES]
    direction = [rng.normal(size=shape) for shape in SHAPES]
    with exact():
        arrays, direction = (
            [*map(ops.convert_to_tensor, kept), ops.convert_to_tensor(last)]
            for kept, last in (
                (arrays, np.array(scale)),
                (direction, np.array(1.0)),
            )
        )
        bound = 40.0 if name == "shared_exp" else None
        function = loss(name, bound, ops.convert_to_tensor(mask))
        step = 1e-6
        ahead, behind = (
            gradient(function)(*(a + s * d for a, d in zip(arrays, direction)))
            for s in (step, -step)
        )
        found = gradient(function, direction)(*arrays)
        for after, before, own in zip(ahead, behind, found):
            expected = support.numpy((after - before) / (2 * step))
            own = support.numpy(own)
            assert own.dtype == "float64"
            size = max(np.abs(expected).max(), 1e-3)
            np.testing.assert_allclose(own, expected, atol=1e-5 * size)

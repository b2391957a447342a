"""Transforms of the backends work on every layer, at every size.

A size decides what "auto" runs. Here the limits are lowered instead.
"""

import numpy as np
import pytest

from keras_moe import layers
from keras_moe.ops import IMPLEMENTATIONS
from tests import support
from tests.contract_table import LAYERS
from tests.contract_table import make
from tests.contract_table import tokens_of
from tests.support import BACKEND

JAX, TORCH = (["yes"] if b == BACKEND else [] for b in ("jax", "torch"))
# From how many bytes on "auto" takes "cpu" and "streaming".
SIZES = {
    "small": {"cpu": 2**40, "streaming": 2**40},
    "large": {"cpu": 0, "streaming": 2**40},
    "huge": {"cpu": 0, "streaming": 0},
}


@pytest.fixture(params=SIZES)
def size(request, monkeypatch):
    for name, least in SIZES[request.param].items():
        one = IMPLEMENTATIONS[name]
        auto_bytes = dict.fromkeys(one.auto_bytes, least)
        one = one._replace(auto_bytes=auto_bytes)
        monkeypatch.setitem(IMPLEMENTATIONS, name, one)
    return request.param


def soft(scale=3.0):
    layer = layers.SoftMoE(3, 2, intermediate_dim=4, bias_initializer="normal")
    layer.build((2, 6, 5))
    layer.scale.assign(scale)
    arrays = np.random.default_rng(0).normal(size=(2, 2, 6, 5))
    return layer, *arrays.astype("float32")


@pytest.mark.parametrize("backend", JAX)
def test_jax(backend, size):
    """Forward mode, also through a compiled program, is reverse mode."""
    import jax

    layer, x, change = soft(60.0 if size == "large" else 3.0)
    compiled = jax.jit(lambda x: layer(x).sum())
    gradient = jax.grad(compiled)
    along = (gradient(x) * change).sum()
    _, forward = jax.jvp(compiled, (x,), (change,))
    np.testing.assert_allclose(forward, along, rtol=1e-3, atol=1e-3)
    # Forward over reverse, and reverse over forward.
    _, first = jax.jvp(gradient, (x,), (change,))
    second = jax.grad(lambda x: jax.jvp(compiled, (x,), (change,))[1])(x)
    np.testing.assert_allclose(first, second, rtol=1e-2, atol=1e-2)
    both = np.stack([x, x + change])
    mapped = jax.vmap(jax.grad(lambda x: layer(x).sum()))(both)
    for one, own in zip(both, mapped):
        np.testing.assert_allclose(own, gradient(one), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [3.0, 60.0])
@pytest.mark.parametrize("backend", TORCH)
def test_torch(backend, scale, size):
    import torch

    layer, x, change = soft(scale)
    x, change = (torch.tensor(a) for a in (x, change))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(layer(leaf).sum(), leaf)

    def loss(x):
        return layer(x).sum()

    close(torch.func.grad(loss)(x), expected)
    _, forward = torch.func.jvp(loss, (x,), (change,))
    close(forward, (expected * change).sum())
    both = torch.stack([x, x + change])
    close(torch.func.vmap(torch.func.grad(loss))(both)[0], expected)
    (own,) = torch.autograd.grad(layer(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((own * change).sum(), leaf)
    _, other = torch.func.jvp(torch.func.grad(loss), (x,), (change,))
    close(second, other)


@pytest.mark.parametrize("backend", TORCH)
def test_torch_parameters(backend, size):
    """`torch.func` over the weights, also a batch of them."""
    import torch

    layer, x, _ = soft()
    x = torch.tensor(x)
    weights = [v.value.detach() for v in layer.trainable_variables]
    batch = [torch.stack([w, 2 * w]) for w in weights]

    def outputs(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    mapped = torch.func.vmap(outputs, (0, None))(batch, x)
    close(mapped[0], outputs(weights, x))
    close(mapped[1], outputs([2 * w for w in weights], x))


@pytest.mark.parametrize("backend", TORCH)
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile(backend, dynamic, size):
    import torch

    layer, x, _ = soft()
    compiled = torch.compile(
        lambda x: layer(x), fullgraph=True, dynamic=dynamic, backend="eager"
    )
    close(compiled(torch.tensor(x)), layer(torch.tensor(x)))


@pytest.mark.parametrize("backend", TORCH)
def test_torch_compiles_the_cap_of_expert_choice_as_one_operator(backend):
    import torch

    layer = make("choice_capped")
    tokens = torch.tensor(tokens_of(4, 8))
    expected = layer(tokens)
    compiled = torch.compile(
        lambda x: layer(x), fullgraph=True, backend="eager"
    )
    leaf = tokens.clone().requires_grad_()
    compiled(leaf).sum().backward()
    close(compiled(tokens), expected)
    close(leaf.grad, gradient_of(layer, tokens))


def gradient_of(layer, tokens):
    leaf = tokens.clone().requires_grad_()
    layer(leaf).sum().backward()
    return leaf.grad


def close(found, expected):
    found, expected = support.numpy(found), support.numpy(expected)
    size = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * size)


XLA = ["soft"] if BACKEND == "tensorflow" else []


@pytest.mark.parametrize("label", XLA)
def test_tensorflow_jit(label, size):
    """Values and gradients of programs that XLA compiles."""
    import tensorflow as tf

    layer, x, _ = soft()

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x))
        return value, tape.gradient(value, x)

    x = tf.constant(x)
    own = tf.function(gradient, jit_compile=True)(x)
    for found, expected in zip(own, gradient(x)):
        close(found, expected)


# The four layers, one of them also without drops, are called often.
OFTEN = ("soft", "choice", "token", "dropless", "mixture")
EAGER = [*LAYERS] if BACKEND == "jax" else []


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("label", EAGER)
def test_eager_calls_compile_once(label, masked):
    import jax

    programs = []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            programs.append(name)

    layer = make(label)
    tokens = jax.numpy.asarray(tokens_of(4, 8))
    mask = jax.numpy.arange(8) < np.array([[8], [6], [3], [0]])
    mask = mask if masked else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        layer(tokens, mask=mask), layer(tokens, mask=mask)
        # Earlier tests may have compiled all of it. A new function is heard.
        jax.jit(lambda x: x + 1)(tokens)
        assert programs
        programs.clear()
        for _ in range(50 if label in OFTEN else 2):
            layer(tokens, mask=mask)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert programs == []


@pytest.mark.parametrize("backend", JAX)
def test_eager_implementations_compile_once(backend, size):
    test_eager_calls_compile_once("soft", masked=True)


# === Rows sorted by expert ===


def dropless(implementation="auto"):
    layer = layers.TokenChoiceMoE(
        4,
        2,
        capacity_factor=None,
        intermediate_dim=4,
        gated=True,
        bias_initializer="normal",
        router_initializer="ones",
        implementation=implementation,
    )
    layer.build((2, 6, 5))
    arrays = np.random.default_rng(0).normal(size=(3, 2, 6, 5))
    kernel = np.random.default_rng(1).normal(size=(5, 4))
    layer.router_kernel.assign(kernel)
    return layer, *arrays.astype("float32")


@pytest.mark.parametrize("backend", JAX)
def test_dropless_jax(backend):
    """Either mode over either, and batches, of inputs and of kernels."""
    import jax

    layer, x, change, other = dropless()
    weights = [v.value for v in layer.trainable_variables]

    def loss(weights, x):
        outputs, _ = layer.stateless_call(weights, [], x)
        return (outputs**2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    by_weights, by_x = gradient(weights, x)
    directions = [w * 0.1 + 0.1 for w in weights], change
    along = sum((g * d).sum() for g, d in zip(by_weights, directions[0]))
    along += (by_x * change).sum()
    _, forward = jax.jvp(loss, (weights, x), directions)
    close(forward, along)
    # Reverse over reverse, and forward over reverse.
    again = jax.grad(lambda x: (gradient(weights, x)[1] * change).sum())(x)
    _, first = jax.jvp(lambda x: gradient(weights, x)[1], (x,), (change,))
    close(again, first)
    both = np.stack([x, other])
    mapped = jax.vmap(gradient, (None, 0))(weights, both)
    for one, own in zip(both, mapped[1]):
        close(own, gradient(weights, one)[1])
    mean = jax.grad(
        lambda w: sum(jax.vmap(loss, (None, 0))(w, both)), argnums=0
    )(weights)
    for own, a, b in zip(mean, *(gradient(weights, one)[0] for one in both)):
        close(own, a + b)
    batch = [np.stack([w, 2 * w]) for w in weights]
    mapped = jax.vmap(gradient, (0, None))(batch, x)[0]
    for own, right in zip(mapped, by_weights):
        close(own[0], right)


@pytest.mark.parametrize("backend", TORCH)
def test_dropless_torch(backend):
    import torch

    layer, x, change, other = dropless()
    x, change, other = (torch.tensor(a) for a in (x, change, other))
    leaf = x.clone().requires_grad_()

    def loss(x):
        return (layer(x) ** 2).sum()

    (own,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((own * change).sum(), leaf)
    close(torch.func.grad(loss)(x), own.detach())
    _, forward = torch.func.jvp(loss, (x,), (change,))
    close(forward, (own * change).sum().detach())
    _, first = torch.func.jvp(torch.func.grad(loss), (x,), (change,))
    close(second, first)
    both = torch.stack([x, other])
    mapped = torch.func.vmap(torch.func.grad(loss))(both)
    close(mapped[0], own.detach())
    weights = [v.value.detach() for v in layer.trainable_variables]

    def outputs(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    batch = [torch.stack([w, 2 * w]) for w in weights]
    mapped = torch.func.vmap(outputs, (0, None))(batch, x)
    close(mapped[0], outputs(weights, x))


@pytest.mark.parametrize("backend", TORCH)
@pytest.mark.parametrize("dynamic", [False, True])
def test_dropless_torch_compile(backend, dynamic):
    import torch

    layer, x, *_ = dropless()
    compiled = torch.compile(
        lambda x: layer(x), fullgraph=True, dynamic=dynamic, backend="eager"
    )
    close(compiled(torch.tensor(x)), layer(torch.tensor(x)))


@pytest.mark.parametrize("label", XLA)
def test_dropless_tensorflow(label):
    """XLA takes tiles, and gradients are differentiated again."""
    import tensorflow as tf

    layer, x, change, _ = dropless()

    def derive(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.reduce_sum(layer(x) ** 2)
            along = tf.reduce_sum(tape.gradient(value, x) * change)
        return value, along, outer.gradient(along, x)

    x = tf.constant(x)
    results = [
        derive(x),
        tf.function(derive)(x),
        tf.function(derive, jit_compile=True)(x),
    ]
    reference = dropless("reference")[0]
    reference.set_weights(layer.get_weights())
    layer = reference
    expected = derive(x)
    for result in results:
        for found, right in zip(result, expected):
            close(found, right)

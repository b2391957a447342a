"""What soft implementations promise: exponentials, memory, refusals."""

import dataclasses
import math
import re

import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe import ops as moe_ops
from keras_moe import routing
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from keras_moe.ops.streaming import blocks
from tests import parity
from tests import support
from tests.built import UNDRAWN


def loss(name, scale):
    """A function of tokens and embeddings that goes through both steps."""

    def function(tokens, embeddings):
        plan = routing.soft_moe(tokens, embeddings, scale)
        prepared = moe_ops.make_dispatcher(plan, tokens.dtype, name)
        slots = prepared.dispatch(tokens)
        return ops.sum(ops.square(prepared.combine(slots)))

    return function


def operations(function, *arrays):
    """(name, outputs' size) of each operation of the loss and its gradients."""
    arrays = [ops.convert_to_tensor(a) for a in arrays]
    if support.BACKEND == "jax":
        import jax

        gradient = jax.grad(function, argnums=tuple(range(len(arrays))))
        return list(_equations(jax.make_jaxpr(gradient)(*arrays).jaxpr))
    if support.BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False, jit_compile=True)
        def gradient(*arrays):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                value = function(*arrays)
            return tape.gradient(value, arrays)

        program = gradient.experimental_get_compiler_ir(*arrays)(stage="hlo")
        return list(_instructions(program))
    return _run_and_record(function, arrays)


def _instructions(program):
    """Of the text of an XLA program: `name = f32[2,3]{1,0} operation(…)`."""
    yield from (("cond", 0) for _ in re.findall(r" conditional\(", program))
    for shape, name in re.findall(r"= \w+\[([\d,]*)\]\S* ([\w-]+)\(", program):
        name = "exp" if name == "exponential" else name
        yield name, math.prod(int(n) for n in shape.split(",") if n)


def _equations(jaxpr):
    import jax

    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield equation.primitive.name, np.prod(variable.aval.shape)
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _run_and_record(function, arrays):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple) else (result,)
            for out in outputs:
                if isinstance(out, torch.Tensor):
                    name = func.overloadpacket.__name__.rstrip("_")
                    seen.append((name, out.numel()))
            return result

    arrays = [a.detach().requires_grad_() for a in arrays]
    with Recorder():
        torch.autograd.grad(function(*arrays), arrays)
    return seen


def tokens_and_embeddings(length=48, slots=40, features=3):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(1, length, features)).astype("float32"),
        rng.normal(size=(features, slots, 1)).astype("float32"),
    )


def exponentials(name, scale=None):
    """How often as many exponentials are computed as there are weights."""
    arrays = [*tokens_and_embeddings(), *([] if scale is None else [scale])]

    def function(tokens, embeddings, scale=None):
        return loss(name, scale)(tokens, embeddings)

    made = operations(function, *arrays)
    names = [n for n, size in made if size == 48 * 40]
    return names.count("exp") + names.count("_softmax"), made


def test_one_exponential_forward_and_backward():
    assert exponentials("reference")[0] == 2
    assert exponentials("shared_exp")[0] == 1


def test_the_value_of_scale_decides_on_cpus():
    """Eagerly on torch; elsewhere both formulas are in one program."""
    assert exponentials("cpu")[0] == 1  # unit vectors without a scale
    for scale in (3.0, 60.0):
        _, made = exponentials("cpu", np.float32(scale))
        names = {name for name, _ in made}
        if support.BACKEND == "torch":
            assert ("logsumexp" in names) == (scale > 40)
        else:
            assert "cond" in names


@pytest.mark.parametrize(
    "name", ["reference", "logsumexp", "shared_exp", "streaming"]
)
def test_portable_formulas_have_no_branch(name):
    scale = None if name == "shared_exp" else np.float32(3.0)
    _, made = exponentials(name, scale)
    found = {n for n, _ in made}
    if name == "streaming" and support.BACKEND == "jax":
        found -= {"cond"}  # of platforms, which none is of in a program
    assert not {"cond", "_local_scalar_dense"} & found


@pytest.fixture
def sizes_of_blocks(monkeypatch):
    """Sets them, for programs that are compiled from now on."""

    def set_sizes(entries):
        monkeypatch.setattr(blocks, "BLOCK", entries)
        monkeypatch.setattr(blocks, "FEWEST", 1)
        forget_programs()

    yield set_sizes
    forget_programs()


def forget_programs():
    """JAX compiles anew what it has compiled."""
    if support.BACKEND == "jax":
        import jax

        jax.clear_caches()


def test_streaming_holds_no_weights(sizes_of_blocks):
    sizes_of_blocks(400)
    _, made = exponentials("streaming")
    assert max(size for _, size in made) < 48 * 40 / 2
    _, made = exponentials("shared_exp")
    assert max(size for _, size in made) == 48 * 40


def test_streaming_in_blocks(sizes_of_blocks):
    """Several blocks of rows, the last of them incomplete."""
    sizes_of_blocks(16)
    assert blocks.blocks(7, 6) == (4, 2)
    parity.assert_same(streaming.prepare, parity.case("soft", "masked"))


# === Deliberately broken ===


def test_a_wrong_limit_is_found():
    case = parity.case("soft", "scale 100, masked")
    with pytest.raises(AssertionError, match="soft case scale 100"):
        parity.assert_same(shared_exp.prepare, case)


@pytest.mark.parametrize("step", ["over_tokens", "over_slots"])
def test_sums_without_a_gradient_are_found(step):
    def wrong(plan, dtype):
        right = shared_exp.prepare(plan, dtype)
        fixed = {step: ops.stop_gradient(getattr(right, step))}
        return dataclasses.replace(right, **fixed)

    case = parity.case("soft", "unit, masked")
    with pytest.raises(AssertionError, match="gradient of plan weight"):
        parity.assert_same(wrong, case)


def test_a_streaming_kernel_without_the_mask_is_found(monkeypatch):
    right = streaming.backend.dispatch
    monkeypatch.setattr(
        streaming.backend,
        "dispatch",
        lambda inputs, slots, tokens, mask: right(inputs, slots, tokens, None),
    )
    with pytest.raises(AssertionError, match="soft case masked: dispatch"):
        parity.assert_same(streaming.prepare, parity.case("soft", "masked"))


# === What is refused ===


def test_streaming_refuses_what_it_cannot_stream():
    layer = layers.MixtureOfTokens(
        4, 2, intermediate_dim=4, implementation="streaming", **UNDRAWN
    )
    layer.build((2, 6, 5))
    with pytest.raises(ValueError) as error:
        support.run(lambda x: layer(x), np.ones((2, 6, 5), "float32"))
    assert (
        "implementation='streaming' cannot serve this plan, as combine is "
        "over tokens, not over slots; choose one of 'auto', 'reference'."
    ) in str(error.value)
    noisy = layers.SoftMoE(
        2,
        1,
        noise_std=0.5,
        intermediate_dim=4,
        implementation="streaming",
        **UNDRAWN,
    )
    with pytest.raises(ValueError, match="the router adds noise to its logits"):
        plan = routing.SoftPlan(*tokens_and_embeddings(), noise=0.0)
        noisy.dispatcher(plan, "float32")


def test_shared_exp_needs_a_bound():
    """Forced, it runs or raises; nothing else runs in its place."""
    tokens = np.ones((2, 6, 5), "float32")
    options = {"implementation": "shared_exp", "intermediate_dim": 4}
    layer = layers.SoftMoE(2, 1, max_scale=40, **options, **UNDRAWN)
    layer.build(tokens.shape)
    support.run(lambda x: layer(x), tokens)
    for more, reason in (
        ({}, "no number is known that bounds the logits (SoftMoE(max_scale=40"),
        ({"max_scale": 41}, "its logits may reach 41, and one exponential ser"),
        ({"normalize": False}, "nothing bounds logits of vectors of any leng"),
        ({"dtype": "float16", "max_scale": 3}, "float16 cannot hold the sums"),
    ):
        layer = layers.SoftMoE(2, 1, **more, **options, **UNDRAWN)
        layer.build(tokens.shape)
        with pytest.raises(ValueError) as error:
            support.run(lambda x, layer=layer: layer(x), tokens)
        assert reason in str(error.value)


def test_cpu_is_refused_elsewhere():
    facts = moe_ops.Facts("soft", "gpu", bound=1.0)
    for backend in moe_ops.EVERYWHERE:
        with pytest.raises(ValueError, match="tuned for CPUs and the tokens"):
            moe_ops.select(facts, "cpu", backend)


# === What "auto" takes ===


def chosen(tokens, slots, dtype="float32", backend="torch", device="cpu", **of):
    plan = routing.SoftPlan(
        np.broadcast_to(np.float32(0), (1, tokens, 2)),
        np.broadcast_to(np.float32(0), (2, slots, 1)),
        **of,
    )
    facts = moe_ops.facts(ops_of(plan), dtype)
    graph = facts.traits - {"eager"}
    facts = facts._replace(device=device, traits=graph)
    return moe_ops.select(facts, "auto", backend)


def ops_of(plan):
    """The plan, whose tokens are where this backend puts them."""
    few = ops.convert_to_tensor(plan.tokens[:, :1])
    shape = plan.tokens.shape
    return dataclasses.replace(plan, tokens=ops.broadcast_to(few, shape))


def test_auto_goes_by_the_bound_the_bytes_and_the_device():
    scaled = {"scale": np.float32(3)}
    assert chosen(2047, 1024, **scaled) == "reference"
    assert chosen(2048, 1024, **scaled) == "cpu"
    assert chosen(2048, 1024, bound=1.0) == "cpu"
    assert chosen(196, 196, backend="jax", **scaled) == "cpu"
    assert chosen(196, 196, backend="jax") == "reference"
    assert chosen(2048, 1024) == "reference"
    assert chosen(2048, 1024, "float16", bound=1.0) == "reference"
    assert chosen(2048, 1024, bound=1.0, noise=0.0) == "reference"
    assert chosen(196, 196, backend="tensorflow", **scaled) == "cpu"
    assert chosen(196, 196, backend="tensorflow") == "reference"
    eager = moe_ops.Facts("soft", traits=frozenset({"eager"}))
    assert moe_ops.select(eager, "auto", "tensorflow") == "reference"
    assert moe_ops.select(eager._replace(bound=1.0), "cpu", "tensorflow")
    for backend in moe_ops.EVERYWHERE:
        for device in ("gpu", "tpu"):
            there = {"backend": backend, "device": device}
            assert chosen(196, 196, bound=40.0, **there) == "shared_exp"
            assert chosen(196, 196, bound=41.0, **there) == "logsumexp"
            assert chosen(196, 196, **scaled, **there) == "logsumexp"
            assert chosen(9, 9, discrete=True, **there) == "reference"


def test_auto_streams_by_the_bytes_of_a_device(monkeypatch):
    edge = 2**29 // 4 // 1024
    for backend in moe_ops.EVERYWHERE:
        for device in ("cpu", "gpu", "tpu"):
            there = {"backend": backend, "device": device}
            assert chosen(edge, 1024, bound=1.0, **there) != "streaming"
            assert chosen(edge + 1, 1024, bound=1.0, **there) == "streaming"
            assert chosen(edge + 1, 1024, **there) == "streaming"
            noisy = chosen(edge + 1, 1024, noise=0.0, **there)
            assert noisy != "streaming"
    monkeypatch.setattr(moe_ops.selection, "shards", lambda: 2)
    assert chosen(edge + 1, 1024, bound=1.0, device="gpu") == "shared_exp"

"""What `shared_exp` and `streaming` promise: exponentials, memory, refusals."""

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
        prepared = moe_ops.prepare(plan, tokens.dtype, name)
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


def test_the_value_of_scale_decides():
    """Eagerly on torch; elsewhere both formulas are in one program."""
    for scale in (3.0, 60.0):
        _, made = exponentials("shared_exp", np.float32(scale))
        names = {name for name, _ in made}
        if support.BACKEND == "torch":
            assert ("logsumexp" in names) == (scale > 40)
        else:
            assert "cond" in names


def test_streaming_holds_no_weights(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 400)
    monkeypatch.setattr(blocks, "FEWEST", 1)
    _, made = exponentials("streaming")
    assert max(size for _, size in made) < 48 * 40 / 2
    _, made = exponentials("shared_exp")
    assert max(size for _, size in made) == 48 * 40


def test_streaming_in_blocks(monkeypatch):
    """Several blocks of rows, the last of them incomplete."""
    monkeypatch.setattr(blocks, "BLOCK", 16)
    monkeypatch.setattr(blocks, "FEWEST", 1)
    assert blocks.blocks(7, 6) == (4, 2)
    parity.assert_same(streaming.prepare, parity.case("soft", "masked"))


# === Deliberately broken ===


def test_a_wrong_limit_is_found(monkeypatch):
    monkeypatch.setattr(shared_exp.room, "is_beyond", lambda bound: None)
    case = parity.case("soft", "scale 100, masked")
    with pytest.raises(AssertionError, match="soft case scale 100"):
        parity.assert_same(shared_exp.prepare, case)


@pytest.mark.parametrize("step", ["to_slots", "to_tokens"])
def test_a_kernel_without_the_sums_gradient_is_found(monkeypatch, step):
    right = getattr(shared_exp.room, step)

    def wrong(inputs, values, sums, beyond):
        return right(inputs, values, ops.stop_gradient(sums), beyond)

    monkeypatch.setattr(shared_exp.room, step, wrong)
    case = parity.case("soft", "unit, masked")
    with pytest.raises(AssertionError, match="gradient of plan weight"):
        parity.assert_same(shared_exp.prepare, case)


def test_a_streaming_kernel_without_the_mask_is_found(monkeypatch):
    right = streaming.room.to_slots
    monkeypatch.setattr(
        streaming.room,
        "to_slots",
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
        "over tokens, not over slots; choose one of 'auto', 'reference', "
        "'shared_exp'."
    ) in str(error.value)
    noisy = layers.SoftMoE(
        2,
        1,
        noise_std=0.5,
        intermediate_dim=4,
        implementation="streaming",
        **UNDRAWN,
    )
    with pytest.raises(ValueError, match="noise on the logits is an array"):
        plan = routing.SoftPlan(*tokens_and_embeddings(), noise=0.0)
        noisy.prepare(plan, "float32")


# === What "auto" takes ===


def test_auto_goes_by_the_bound_and_the_bytes():
    def chosen(tokens, slots, dtype="float32", backend="torch", **options):
        plan = routing.SoftPlan(
            np.broadcast_to(np.float32(0), (1, tokens, 2)),
            np.broadcast_to(np.float32(0), (2, slots, 1)),
            **options,
        )
        return moe_ops.select(moe_ops.facts(plan, dtype), "auto", backend)

    assert chosen(2047, 1024, bound=1.0) == "reference"
    assert chosen(2048, 1024, bound=1.0) == "shared_exp"
    assert chosen(196, 196, bound=1.0, backend="jax") == "shared_exp"
    assert chosen(196, 196, backend="jax") == "reference"
    assert chosen(2048, 1024) == "reference"
    assert chosen(2048, 1024, "float16", bound=1.0) == "reference"
    assert chosen(2048, 1024, bound=1.0, noise=0.0) == "reference"
    edge = 2**29 // 4 // 1024
    assert chosen(edge, 1024, bound=1.0) == "shared_exp"
    assert chosen(edge, 1024) == "reference"
    assert chosen(edge + 1, 1024, noise=0.0) == "reference"
    for backend in moe_ops.EVERYWHERE:
        assert chosen(edge + 1, 1024, backend=backend) == "streaming"
        streamed = chosen(edge + 1, 1024, bound=1.0, backend=backend)
        assert streamed == "streaming"

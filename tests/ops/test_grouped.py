"""Dropless token choice: rows sorted by expert against every expert's work."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from keras.src import backend

from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import routing
from keras_moe.ops import selection
from tests import oracle
from tests import support
from tests.support import BACKEND

# tokens, experts, top_k: how they lie over the experts
CASES = {
    "several": ((2, 7), 4, 2),
    "one token": ((1, 1), 8, 2),
    "few tokens": ((1, 3), 16, 2),
    "one expert": ((2, 5), 1, 1),
    "all experts": ((2, 5), 3, 3),
    "many rows": ((3, 50), 4, 2),
    "no tokens": ((0, 5), 4, 2),
}
FEATURES, HIDDEN = 5, 6


def make(experts, top_k, shape, implementation="grouped", **options):
    options = {"intermediate_dim": HIDDEN, "gated": True, **options}
    layer = layers.TokenChoiceMoE(
        experts,
        top_k,
        capacity_factor=None,
        implementation=implementation,
        **options,
    )
    layer.build((*shape, FEATURES))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def draw(*shape, dtype="float32"):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def exact(dtype):
    if BACKEND != "jax" or dtype != "float64":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def close(found, expected, tolerance=1e-5):
    found, expected = support.numpy(found), support.numpy(expected)
    assert found.shape == expected.shape
    size = max(np.abs(expected).max(initial=0), 1.0)
    np.testing.assert_allclose(found, expected, atol=tolerance * size)


@pytest.mark.parametrize(
    "dtype, gated, use_bias, masked",
    [
        ("float32", True, False, False),
        ("float32", False, True, True),
        ("mixed_bfloat16", True, True, False),
        ("float64", True, True, True),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case, dtype, gated, use_bias, masked):
    """As every expert computes every token, and one-hot gates choose."""
    shape, experts, top_k = CASES[case]
    real = "float64" if dtype == "float64" else "float32"
    options = {"gated": gated, "use_bias": use_bias, "dtype": dtype}
    mask = None
    if masked:
        mask = np.random.default_rng(2).random(shape) < 0.6
    with exact(dtype):
        tokens, cotangent = draw(2, *shape, FEATURES, dtype=real)
        outcomes = [
            support.layer_grads(
                make(experts, top_k, shape, name, **options),
                tokens,
                cotangent,
                mask,
            )
            for name in ("grouped", "reference")
        ]
    tolerance = {"float64": 1e-12, "mixed_bfloat16": 0.05}.get(dtype, 1e-5)
    (outputs, _, grads), (expected, _, right) = outcomes
    if dtype == "mixed_bfloat16":
        outputs, expected = (
            x.astype("float32") if hasattr(x, "astype") else x
            for x in (outputs, expected)
        )
    close(outputs, expected, tolerance)
    for name, grad in right.items():
        close(grads[name], grad, tolerance)
    if mask is not None:
        assert not outputs[~mask].any()
        assert not grads["inputs"][~mask].any()


@pytest.mark.parametrize("favourite", [0, 2])
def test_one_expert_with_all_tokens(favourite):
    layer = make(3, 1, (2, 8), router_initializer="zeros")
    kernel = np.zeros((FEATURES, 3), "float32")
    kernel[:, favourite] = 1.0
    layer.router_kernel.assign(kernel)
    tokens = np.abs(draw(2, 8, FEATURES))
    other = make(3, 1, (2, 8), "reference")
    other.set_weights(layer.get_weights())
    for own, right in zip(
        support.layer_grads(layer, tokens, tokens)[2].values(),
        support.layer_grads(other, tokens, tokens)[2].values(),
    ):
        close(own, right)


@pytest.mark.parametrize("masked", [False, True])
def test_a_loop_over_tokens(masked):
    """Against plain numpy; what is masked holds NaN."""
    layer = make(5, 2, (2, 6), activation="gelu")
    tokens = draw(2, 6, FEATURES)
    mask = np.ones((2, 6), bool)
    if masked:
        mask[0, 4:] = mask[1, 1] = False
    weights = {support.weight_name(layer, v): v.numpy() for v in layer.weights}
    projections = {
        name: (
            weights[f"experts/{name}/kernel"].astype("float64"),
            weights[f"experts/{name}/bias"][:, 0],
        )
        for name in ("up", "gate", "down")
    }
    experts = oracle.MLP(projections)
    gates = oracle.router_gates(tokens, weights["router_kernel"])
    expected = np.zeros(tokens.shape)
    for g, t in np.argwhere(mask):
        for e in np.argsort(-gates[g, t], kind="stable")[:2]:
            expected[g, t] += gates[g, t, e] * experts(e, tokens[g, t])
    poisoned = np.where(mask[..., None], tokens, np.nan)
    given = mask if masked else None
    close(layer(poisoned, mask=given), expected.astype("float32"), 1e-4)


# Each tile of JAX's loops and of XLA's programs reads one expert's kernel.
@pytest.mark.parametrize("compiled", [False, True])
def test_only_chosen_experts_are_read(compiled):
    """Poison in the others reaches nobody: neither outputs nor gradients."""
    layer = make(16, 2, (1, 1), use_bias=False)
    tokens = draw(1, 1, FEATURES)
    expected = support.numpy(layer(tokens))
    gates = tokens[0, 0] @ layer.router_kernel.numpy()
    others = np.argsort(-gates)[2:]
    for projection in (
        layer.experts.up,
        layer.experts.gate,
        layer.experts.down,
    ):
        kernel = projection.kernel.numpy().copy()
        kernel[others] = np.nan
        projection.kernel.assign(kernel)

    def call(tokens):
        return layer(tokens)

    if compiled and BACKEND == "tensorflow":
        import tensorflow as tf

        call = tf.function(call, jit_compile=True)
    if compiled and BACKEND == "torch":
        import torch

        call = torch.compile(call, backend="aot_eager", fullgraph=True)
    if compiled and BACKEND == "jax":
        import jax

        call = jax.jit(call)
    close(call(ops.convert_to_tensor(tokens)), expected)
    _, _, grads = support.layer_grads(layer, tokens, tokens)
    assert np.isfinite(grads["inputs"]).all()


def test_the_written_plan_is_the_choice():
    gates = ops.softmax(draw(2, 5, 4), axis=-1)
    mask = np.ones((2, 5), bool)
    mask[1, 3:] = False
    plan = routing.dropless_choice(gates, 2, mask=ops.convert_to_tensor(mask))
    gates = support.numpy(gates)
    rank = np.argsort(np.argsort(-gates, axis=-1), axis=-1)
    chosen = (rank < 2) & mask[..., None]
    dispatch, combine = support.numpy(plan.weights())
    assert dispatch.shape == combine.shape == (2, 5, 4, 5)
    own = np.eye(5)[:, None]
    np.testing.assert_array_equal(dispatch, chosen[..., None] * own)
    close(combine, (chosen * gates)[..., None] * own, 1e-6)
    order, bounds = support.numpy(plan.by_expert())
    expert = support.numpy(plan.expert).reshape(-1)
    np.testing.assert_array_equal(order, np.argsort(expert, kind="stable"))
    np.testing.assert_array_equal(
        bounds, np.searchsorted(np.sort(expert), np.arange(5))
    )


def test_ties_go_to_the_first():
    plan = routing.dropless_choice(ops.ones((2, 3, 6)), 3)
    np.testing.assert_array_equal(
        support.numpy(plan.expert), np.broadcast_to([0, 1, 2], (2, 3, 3))
    )


def test_rows_are_one_group():
    """(batch, features) without an axis of tokens, with a mask and without."""
    layer = make(4, 2, (None,))
    rows = draw(9, FEATURES)
    expected = support.numpy(layer(rows[None]))[0]
    close(layer(rows), expected)
    mask = np.arange(9) % 3 > 0
    expected = support.numpy(layer(rows[None], mask=mask[None]))[0]
    close(layer(rows, mask=mask), expected)
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, FEATURES)
    close(model.predict(rows, verbose=0), layer(rows))


def by_shapes(call, *shape):
    """What `call` makes of an array of this shape, without memory for it."""
    if BACKEND != "torch":
        return backend.compute_output_spec(call, keras.KerasTensor(shape))
    import torch

    # Keras tries again with memory where a call fails without.
    with keras.device("meta"):
        return call(torch.empty(shape, device="meta"))


def test_more_pairs_than_an_int32_counts():
    """Refused by shapes alone, before anything is made."""

    def call(gates):
        return routing.dropless_choice(gates, 8).expert

    with pytest.raises(ValueError, match="k=8 experts; received 268435456"):
        by_shapes(call, 2**14, 2**14, 8)
    # E · P is beyond 2^31 and never counted.
    spec = by_shapes(call, 1, 2**27, 256)
    assert tuple(spec.shape) == (1, 2**27, 8)


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_priority", True),
        ("capacity_multiple_of", 4),
        ("capacity_rounding", "round"),
    ],
)
def test_what_needs_a_capacity_is_refused(name, value):
    text = f"{name} must be left at its default.*received {value!r}"
    with pytest.raises(ValueError, match=text):
        layers.TokenChoiceMoE(
            4, 2, capacity_factor=None, intermediate_dim=8, **{name: value}
        )


def test_experts_that_are_layers_take_every_token():
    options = {"intermediate_dim": None, "gated": False}
    options["expert"] = keras.layers.Dense(FEATURES)
    layer = make(3, 2, (1, 4), "auto", **options)
    assert layer(draw(1, 4, FEATURES)).shape == (1, 4, FEATURES)
    forced = make(3, 2, (1, 4), **options)
    text = "implementation='grouped' cannot serve this plan, as its experts are"
    with pytest.raises(ValueError, match=text):
        forced(draw(1, 4, FEATURES))


def test_what_routers_do_is_seen():
    """Load and its imbalance, by `capture` and by the monitor of `fit`."""
    layer = make(4, 2, (3, 6), "auto")
    tokens = draw(3, 6, FEATURES)
    with diagnostics.capture() as plans:
        layer(tokens)
    (plan,) = plans.values()
    facts = diagnostics.summarize(plan)
    gates = tokens @ layer.router_kernel.numpy()
    chosen = np.argsort(-gates, axis=-1)[..., :2]
    close(facts["load"], np.bincount(chosen.reshape(-1), minlength=4) / 36)
    assert facts["dropped"] == 0 and 0 < facts["entropy"] < 1
    inputs = keras.Input((6, FEATURES))
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    monitor = diagnostics.RouterMonitor(tokens)
    history = model.fit(tokens, tokens, verbose=0, callbacks=[monitor])
    names = {name.split("/")[-1] for name in history.history}
    assert {"max_load", "dropped", "entropy"} <= names
    assert history.history[f"{layer.path}/max_load"][0] >= 1


OTHER_DEVICES = {"jax": ("gpu", "tpu"), "torch": ("gpu",), "tensorflow": ()}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", OTHER_DEVICES[BACKEND])
def test_what_other_devices_run(kind, masked, monkeypatch):
    """On a CPU that says it is another device; outputs and gradients."""
    tokens, mask = draw(2, 2, 6, FEATURES), None
    if masked:
        mask = np.random.default_rng(2).random((2, 6)) < 0.6
    expected = support.layer_grads(make(5, 2, (2, 6)), *tokens, mask)
    monkeypatch.setattr(selection, "kind_of", lambda array: kind)
    found = support.layer_grads(make(5, 2, (2, 6)), *tokens, mask)
    close(found[0], expected[0])
    for name, grad in expected[2].items():
        close(found[2][name], grad)


@pytest.mark.parametrize("taken", ["yes"] if BACKEND == "torch" else [])
def test_torch_grouped_mm(taken):
    """PyTorch's own product, where dtype and alignment allow."""
    import torch

    from keras_moe.ops.grouped import torch as room

    rows = torch.tensor(draw(9, 8)).bfloat16().requires_grad_()
    kernels = torch.tensor(draw(3, 8, 16)).bfloat16().requires_grad_()
    bounds = torch.tensor([0, 4, 4, 7])
    assert room.takes(rows, kernels)
    assert not room.takes(rows[:, :7], kernels[:, :7])  # not of 16 bytes
    assert not room.takes(rows, kernels[:, :, :9])
    assert not room.takes(rows.float(), kernels.float())
    made = room.grouped_mm(rows, kernels, bounds)
    right = torch.cat([rows[:4] @ kernels[0], rows[4:7] @ kernels[2]])
    close(made[:7].detach().float(), right.detach().float(), 0.02)
    assert not made[7:].any()
    own = torch.autograd.grad(made.sum(), (rows, kernels))
    expected = torch.autograd.grad(right.sum(), (rows, kernels))
    for one, other in zip(own, expected):
        close(one.float(), other.float(), 0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_many_rows_in_16_bits(dtype):
    """Sums over more rows than a 16-bit number counts, as in float32."""
    rows = 4096
    x = np.random.default_rng(0).normal(0.1, 0.1, (1, rows, 4)) / 16
    found = {}
    for name in (dtype, "float32"):
        keras.utils.set_random_seed(0)
        layer = layers.TokenChoiceMoE(
            2,
            1,
            capacity_factor=None,
            intermediate_dim=4,
            activation="linear",
            router_initializer=keras.initializers.Constant(
                np.array([[9.0, 0.0]] * 4)
            ),
            implementation="grouped",
            dtype="float32" if name == "float32" else f"mixed_{name}",
        )
        layer.build(x.shape)
        cotangent = np.full(x.shape, 1 / 64, "float32")
        *_, found[name] = support.layer_grads(
            layer, x.astype("float32"), cotangent
        )
    assert found[dtype].keys() == found["float32"].keys()
    for path, grad in found["float32"].items():
        if "experts" in path:
            error = np.abs(found[dtype][path] - grad).max()
            assert error < 0.03 * np.abs(grad).max(), path

"""Plans are captured when asked, and summed up in the right numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.diagnostics import RouterMonitor
from keras_moe.diagnostics import capture
from keras_moe.diagnostics import summarize
from keras_moe.routing import HardPlan
from keras_moe.routing import SoftPlan
from keras_moe.visualize import experts

X = np.random.default_rng(0).normal(size=(2, 8, 6)).astype("float32")


def model_of_two():
    inputs = keras.Input((8, 6))
    soft = layers.SoftMoE(4, 2, intermediate_dim=5, name="soft")
    hard = layers.ExpertChoiceMoE(4, 1.0, intermediate_dim=5, name="hard")
    inner = keras.Model(inputs, hard(soft(inputs)), name="inner")
    return keras.Sequential([inner, soft], name="outer")


def test_capture_finds_layers_inside_models_and_counts_calls():
    model = model_of_two()
    with capture() as plans:
        model(X)
    kinds = {path.rsplit("/")[-1]: type(p) for path, p in plans.items()}
    assert kinds == {"soft": SoftPlan, "hard": HardPlan, "soft#2": SoftPlan}
    soft = next(p for path, p in plans.items() if path.endswith("soft"))
    assert tuple(soft.dispatch.shape) == (2, 8, 4, 2)


def test_nothing_is_recorded_outside():
    layer = layers.SoftMoE(4, 2, intermediate_dim=5)
    with capture() as plans:
        layer(X)
    layer(X)
    assert list(plans) == [layer.path]


def test_blocks_inside_blocks():
    layer = layers.SoftMoE(4, 2, intermediate_dim=5)
    with capture() as outer:
        layer(X)
        with capture() as inner:
            layer(X)
    assert list(inner) == [layer.path]
    assert list(outer) == [layer.path, f"{layer.path}#2"]


def test_compiled_calls_raise():
    layer = layers.TokenChoiceMoE(4, 2, intermediate_dim=5)
    model = keras.Sequential([keras.Input((8, 6)), layer])
    if keras.backend.backend() == "torch":
        # predict is eager there, and capture sees it
        with capture() as plans:
            model.predict(X, verbose=0)
        assert list(plans) == [layer.path]
        return
    model.compile(jit_compile=True)
    with (
        pytest.raises(RuntimeError, match="capture\\(\\) sees eager calls"),
        capture(),
    ):
        model.predict(X, verbose=0)


def hard_plan():
    """Two experts of two slots; both read token 0, neither token 3."""
    token = ops.convert_to_tensor([[[0, 1], [0, 2]]], dtype="int32")
    gate = ops.convert_to_tensor([[[0.5, 0.9], [0.5, 0.0]]], dtype="float32")
    return token, gate


def test_summary_of_a_hard_plan():
    facts = summarize(HardPlan(*hard_plan(), num_tokens=4))
    np.testing.assert_allclose(facts["load"], [2 / 3, 1 / 3])
    assert facts["dropped"] == 0.5  # tokens 2 (an empty slot) and 3
    np.testing.assert_allclose(facts["entropy"], 0.5)  # of 1 and 0
    np.testing.assert_allclose(facts["similarity"], 1 / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("soft", [True, False])
def test_groups_in_which_an_expert_reads_nothing_count_for_no_pair(soft):
    # Both experts read the same in the first group; the second is masked, or
    # holds one of them alone.
    if soft:
        tokens = ops.convert_to_tensor(np.ones((2, 3, 4), "float32"))
        mask = ops.convert_to_tensor([[True] * 3, [False] * 3])
        plan = SoftPlan(tokens, ops.ones((4, 2, 1)), mask=mask)
    else:
        token = ops.zeros((2, 2, 1), dtype="int32")
        gate = ops.convert_to_tensor([[[0.5], [0.5]], [[0.5], [0.0]]])
        plan = HardPlan(token, ops.cast(gate, "float32"), num_tokens=3)
    np.testing.assert_allclose(summarize(plan)["similarity"], 1.0, rtol=1e-6)
    pairs = experts.similarity_of_pairs(plan)
    np.testing.assert_allclose(pairs, np.ones((2, 2)), rtol=1e-6)


def test_experts_that_nobody_compares():
    token = ops.zeros((1, 2, 1), dtype="int32")
    gate = ops.convert_to_tensor([[[0.5], [0.0]]], dtype="float32")
    plan = HardPlan(token, gate, num_tokens=3)
    assert summarize(plan)["similarity"] == 0.0
    pairs = experts.similarity_of_pairs(plan)
    np.testing.assert_array_equal(pairs, [[1.0, np.nan], [np.nan, np.nan]])


def test_no_number_is_beyond_its_range_or_a_negative_zero():
    # Each token has one expert: the entropy is 0, and so is what two share.
    token = ops.convert_to_tensor([[[0], [1], [2]]], dtype="int32")
    plan = HardPlan(token, ops.ones((1, 3, 1)), num_tokens=3)
    facts = summarize(plan)
    for name in ("dropped", "entropy", "similarity"):
        assert f"{facts[name]:.3f}" == "0.000", name
    even = SoftPlan(ops.ones((3, 7, 4)), ops.zeros((4, 7, 3)))
    facts = summarize(even)
    for name in ("entropy", "similarity"):
        assert 1 - 1e-6 < facts[name] <= 1.0, name


def test_summary_does_not_count_masked_tokens():
    mask = ops.convert_to_tensor([[True, True, False, False]])
    facts = summarize(HardPlan(*hard_plan(), num_tokens=4, mask=mask))
    assert facts["dropped"] == 0.0


def test_summary_of_even_and_of_sharp_soft_plans():
    tokens = ops.convert_to_tensor(np.eye(4, dtype="float32")[None])
    even = SoftPlan(tokens, ops.zeros((4, 4, 1)))
    facts = summarize(even)
    np.testing.assert_allclose(facts["load"], [0.25] * 4, rtol=1e-6)
    np.testing.assert_allclose(facts["entropy"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(facts["similarity"], 1.0, rtol=1e-6)
    sharp = SoftPlan(tokens, 100.0 * ops.eye(4)[:, :, None])
    facts = summarize(sharp)
    np.testing.assert_allclose(facts["entropy"], 0.0, atol=1e-6)
    np.testing.assert_allclose(facts["similarity"], 0.0, atol=1e-6)
    assert facts["dropped"] == 0.0


def test_summary_of_something_else():
    with pytest.raises(
        ValueError, match="plan must be a SoftPlan, a HardPlan or"
    ):
        summarize(None)
    with pytest.raises(ValueError, match="received dict; take one of its plan"):
        summarize({"layer": None})


def test_router_monitor_logs_each_epoch():
    model = model_of_two()
    model.compile(loss="mse", optimizer="sgd")
    history = model.fit(
        X, X, epochs=2, verbose=0, callbacks=[RouterMonitor(X)]
    ).history
    names = {k.rsplit("/")[-1] for k in history if "hard/" in k}
    assert names == {"max_load", "dropped", "entropy", "similarity"}
    for key, values in history.items():
        assert len(values) == 2, key
        assert np.isfinite(values).all(), key
    balance = [v for k, v in history.items() if k.endswith("hard/max_load")]
    np.testing.assert_allclose(balance[0], [1.0, 1.0])


def test_router_monitor_sees_the_trained_weights():
    layer = layers.SoftMoE(4, 2, intermediate_dim=5)
    model = keras.Sequential([keras.Input((8, 6)), layer])
    model.compile(loss="mse", optimizer=keras.optimizers.SGD(5.0))
    monitor = RouterMonitor(X)
    history = model.fit(X, X, epochs=2, verbose=0, callbacks=[monitor]).history
    with capture() as plans:
        model(X)
    now = summarize(plans[layer.path])["entropy"]
    key = next(k for k in history if k.endswith("entropy"))
    np.testing.assert_allclose(history[key][-1], now, rtol=1e-5)
    assert history[key][0] != history[key][1]


@pytest.mark.once
def test_tensorboard_gets_what_the_router_monitor_logs(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    layer = layers.ExpertChoiceMoE(4, 1.0, intermediate_dim=5)
    model = keras.Sequential([keras.Input((8, 6)), layer])
    model.compile(loss="mse")
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    history = model.fit(
        X, X, epochs=2, verbose=0, callbacks=[RouterMonitor(X), board]
    ).history
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "train"), size_guidance={"tensors": 0}
    )
    events.Reload()
    for fact in ("max_load", "dropped", "entropy", "similarity"):
        name = f"{layer.path}/{fact}"
        written = [
            tensor_util.make_ndarray(event.tensor_proto)
            for event in events.Tensors(f"epoch_{name}")
        ]
        np.testing.assert_allclose(written, history[name], rtol=1e-5)


@pytest.mark.parametrize(
    "x, match",
    [
        ("text", "x must be an array .* received 'text'"),
        (None, "x must be an array .* received None"),
        ([], "x must be an array .* received \\[\\]"),
        (np.float32(1.0), "x must be an array with an axis for the examples"),
        ({"a": X, "b": "text"}, "x must be an array .* received 'text'"),
        (X[:0], "x must hold one example or more; received none"),
    ],
)
def test_router_monitor_of_something_else(x, match):
    with pytest.raises(ValueError, match=match):
        RouterMonitor(x)


def test_router_monitor_without_moe_layers():
    model = keras.Sequential([keras.Input((8, 6)), keras.layers.Dense(6)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="found no keras_moe layer"):
        model.fit(X, X, verbose=0, callbacks=[RouterMonitor(X)])

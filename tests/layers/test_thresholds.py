"""Expert Choice by thresholds: the rule, its average, and who matters."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import routing
from tests import oracle
from tests import support
from tests.layers.test_errors import raises

E, D, F = 4, 5, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 7, D)).astype("float32")
MASK = RNG.random((3, 7)) > 0.3
THRESHOLDS = np.array([0.1, 0.35, 0.2, 0.9], "float32")


def make(factor=2.0, selection="threshold", **options):
    layer = layers.ExpertChoiceMoE(
        E, factor, selection=selection, intermediate_dim=F, **options
    )
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def thresholds_of(layer):
    return ops.convert_to_numpy(layer.thresholds)


def gates_of(layer, tokens):
    kernel = ops.convert_to_numpy(layer.router_kernel).astype("float64")
    return oracle.router_gates(tokens, kernel)


def quantile(values, share):
    """The largest of the gates that k others exceed, and 0 of no others."""
    number = min(max(round(len(values) * share), 1), len(values))
    return sorted([*values, 0.0], reverse=True)[number]


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("implementation", ["reference", "grouped"])
def test_the_layer_is_a_loop_over_tokens(limit, implementation):
    layer = make(max_experts_per_token=limit, implementation=implementation)
    layer.thresholds.assign(THRESHOLDS)
    outputs = support.run(
        lambda x: layer(x, mask=ops.convert_to_tensor(MASK)), X
    )
    gates = gates_of(layer, X)
    choices = []
    for g in range(3):
        pairs = set()
        for t in range(7):
            chosen = [e for e in range(E) if gates[g, t, e] > THRESHOLDS[e]]
            chosen.sort(key=lambda e: -gates[g, t, e])
            pairs |= {(t, e) for e in chosen[:limit] if MASK[g, t]}
        choices.append(pairs)
    assert any(choices)
    weights = {
        name: [
            ops.convert_to_numpy(w).astype("float64").squeeze(axis)
            for w, axis in ((part.kernel, ()), (part.bias, 1))
        ]
        for name, part in (
            ("up", layer.experts.up),
            ("down", layer.experts.down),
        )
    }
    experts = oracle.MLP(weights)
    expected = oracle.dispatched_outputs(X, gates, choices, experts)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("masked", [True, False])
def test_thresholds_move_towards_the_quantile(share, masked):
    gates = RNG.random((3, 7, E)).astype("float32")
    mask = MASK if masked else np.ones_like(MASK)
    old = np.array([0.0, 0.2, 0.5, 0.0], "float32")
    moved = support.run(
        lambda old, gates, mask: routing.moved_thresholds(
            old, gates, share, 0.9, mask if masked else None
        ),
        old,
        gates,
        mask,
    )
    for e in range(E):
        new = quantile(gates[mask][:, e], share)
        expected = 0.9 * old[e] + 0.1 * new if old[e] else new
        np.testing.assert_allclose(moved[e], expected, rtol=1e-5)


def test_nothing_moves_without_tokens_nor_to_nan():
    old = ops.convert_to_tensor(THRESHOLDS)
    gates = ops.ones((1, 3, E))
    for mask, factor in ((ops.zeros((1, 3), "bool"), 1.0), (None, np.nan)):
        moved = routing.moved_thresholds(old, gates * factor, 0.5, 0.9, mask)
        np.testing.assert_array_equal(ops.convert_to_numpy(moved), THRESHOLDS)


def test_a_stationary_stream_fills_experts_as_top_k_does():
    """Of 4000 further tokens, each expert's share is c/E within 0.02, and
    nine in ten of the pairs are those that top-k would choose."""
    layer = make(1.0, threshold_momentum=0.9)
    rng = np.random.default_rng(2)
    for _ in range(40):
        layer(rng.normal(size=(2, 128, D)).astype("float32"), training=True)
    gates = gates_of(layer, rng.normal(size=(1, 4000, D)))[0]
    chosen = gates > thresholds_of(layer)
    np.testing.assert_allclose(chosen.mean(0), 1 / E, atol=0.02)
    kept = np.sort(gates, axis=0)[-1000:]
    assert (chosen & (gates >= kept[0])).sum() > 0.9 * 4000


def test_a_call_in_training_chooses_by_the_thresholds_before_it():
    layer = make(threshold_momentum=0.0)
    outputs = []
    for training in (False, True):
        layer.thresholds.assign(THRESHOLDS)
        outputs.append(ops.convert_to_numpy(layer(X, training=training)))
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-6)
    assert np.abs(thresholds_of(layer) - THRESHOLDS).max() > 0.1


def test_no_other_token_matters():
    """Neither later ones nor batch-mates, in training and after it."""
    layer = make()
    layer.thresholds.assign(THRESHOLDS)
    other = X.copy()
    other[0, 4:] += 1.0
    other[1:] -= 1.0
    for training in (True, False):
        outputs = []
        for tokens in (X, other):
            layer.thresholds.assign(THRESHOLDS)
            outputs.append(
                ops.convert_to_numpy(layer(tokens, training=training))
            )
        np.testing.assert_array_equal(outputs[0][0, :4], outputs[1][0, :4])
        assert np.abs(outputs[0][0, :4]).max() > 0.1
        moved = np.abs(thresholds_of(layer) - THRESHOLDS).max()
        assert moved > 1e-4 if training else moved == 0
    layer.trainable = False
    layer(X, training=True)
    np.testing.assert_array_equal(thresholds_of(layer), THRESHOLDS)


def test_trained_by_top_k_and_used_by_thresholds():
    layer = make(selection="top_k_then_threshold")
    weights = [ops.convert_to_numpy(w) for w in layer.trainable_variables]
    for training, selection in ((True, "top_k"), (False, "threshold")):
        twin = make(selection=selection)
        for variable, value in zip(twin.trainable_variables, weights):
            variable.assign(value)
        if selection == "threshold":
            twin.thresholds.assign(thresholds_of(layer))
        with diagnostics.capture() as plans:
            outputs = layer(X, training=training)
        expected = ops.convert_to_numpy(twin(X, training=training))
        np.testing.assert_allclose(
            ops.convert_to_numpy(outputs), expected, rtol=1e-5, atol=1e-5
        )
        kind = routing.HardPlan if training else routing.GroupedPlan
        assert [type(plan) for plan in plans.values()] == [kind]
    assert (thresholds_of(layer) > 0).all()  # moved by the one call in training


def test_arguments_without_use():
    for name, value in (
        ("group_size", 4),
        ("capacity_multiple_of", 2),
        ("capacity_rounding", "ceil"),
    ):
        with raises(f"{name} must be left at its default, "):
            make(**{name: value})
    with raises("implementation must be one of 'auto', 'reference'; received"):
        make(selection="top_k_then_threshold", implementation="gather")
    with raises("implementation must be one of 'auto', 'reference', 'grouped'"):
        make(implementation="gather")
    config = keras.layers.serialize(make(threshold_momentum=0.5))
    assert keras.layers.deserialize(config).threshold_momentum == 0.5

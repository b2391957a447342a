"""Sorting with ties, capacities, and slots against the plain loops."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_moe import capacity as capacities
from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import routing
from keras_moe import sorting
from tests import oracle
from tests import support
from tests.built import UNDRAWN
from tests.built import few
from tests.built import seeds


@pytest.mark.parametrize("size", [7, 20_000])
def test_descending_keeps_the_order_of_ties(size):
    # Sorts that are not stable often are for short arrays, so a long one too.
    values = np.random.default_rng(0).integers(0, 4, (2, 2, size))
    values = values.astype("float32") / 4
    order = support.run(routing.descending, values)
    np.testing.assert_array_equal(
        order, np.argsort(-values, axis=-1, kind="stable")
    )


def test_descending_counts_both_zeros_as_equal():
    values = np.array([[[0.0, -0.0, 1.0, -0.0, 0.0, -1.0]]], "float32")
    order = support.run(routing.descending, values)
    np.testing.assert_array_equal(order, [[[2, 0, 1, 3, 4, 5]]])


def test_ascending_keeps_the_order_of_ties():
    values = np.random.default_rng(0).integers(0, 4, (2, 20_000), "int32")
    order = support.run(routing.ascending, values)
    np.testing.assert_array_equal(order, np.argsort(values, 1, kind="stable"))


# Capacity --------------------------------------------------------------------

# tokens, experts, factor, options, slots
CAPACITIES = [
    (10, 4, 1.0, {"rounding": "round"}, 2),  # 2.5, half to even
    (14, 4, 1.0, {"rounding": "round"}, 4),  # 3.5, half to even
    (11, 4, 1.0, {"rounding": "round"}, 3),  # 2.75
    (9, 4, 1.0, {"rounding": "round"}, 2),  # 2.25
    (9, 4, 1.0, {"rounding": "ceil"}, 3),
    (8, 4, 1.0, {"rounding": "ceil"}, 2),
    (9, 4, 1.0, {}, 3),
    (9, 4, 1.0, {"top_k": 2}, 5),  # 4.5
    (9, 4, 1.05, {"top_k": 2, "multiple_of": 4}, 8),  # 4.725 -> 5 -> 8
    (10, 4, 1.0, {"rounding": "round", "multiple_of": 4}, 4),
    (32, 4, 1.0, {"multiple_of": 4}, 8),
    (1, 64, 0.5, {}, 1),
    (3, 4, 1.0, {"rounding": "round"}, 1),
]
# More than there are tokens, so held to their number.
TOO_MANY = [
    (3, 4, 8.0, {}, 3),
    (3, 4, 5.0, {"rounding": "round"}, 3),
    (2, 4, 2.0, {"multiple_of": 4}, 2),
    (2, 4, 1.0, {"top_k": 4, "multiple_of": 4}, 2),
]


@pytest.mark.parametrize("tokens,experts,factor,options,slots", CAPACITIES)
def test_expert_capacity(tokens, experts, factor, options, slots):
    arguments = (tokens, experts, factor)
    assert routing.expert_capacity(*arguments, **options) == slots
    if options.get("top_k", 1) == 1 and "rounding" in options:
        how, multiple = options["rounding"], options.get("multiple_of", 1)
        assert slots == oracle.expert_choice_capacity(*arguments, multiple, how)
    if "rounding" not in options:
        top_k, multiple = (
            options.get("top_k", 1),
            options.get("multiple_of", 1),
        )
        assert slots == oracle.token_choice_capacity(
            tokens, experts, top_k, factor, multiple
        )


@pytest.mark.parametrize("tokens,experts,factor,options,slots", TOO_MANY)
def test_capacity_is_at_most_the_number_of_tokens(
    tokens, experts, factor, options, slots
):
    for known in (tokens, np.int64(tokens)):
        found = routing.expert_capacity(known, experts, factor, **options)
        assert found == slots
    if support.BACKEND != "jax":  # there it must be known
        unknown = ops.convert_to_tensor(tokens, "int32")
        found = routing.expert_capacity(unknown, experts, factor, **options)
        assert int(found) == slots


def test_arguments_of_routing_are_named():
    with pytest.raises(ValueError, match="rounding must be one of 'ceil', "):
        routing.expert_capacity(10, 4, 1.0, rounding="floor")
    with pytest.raises(ValueError, match="num_experts must be an integer of"):
        routing.expert_capacity(10, 0, 1.0)
    assert routing.expert_capacity(np.int64(8), 4, 1.0) == 2
    gates = np.full((1, 3, 2), 0.5, "float32")
    with pytest.raises(ValueError, match="number of experts, 2; received 3"):
        routing.token_choice(gates, 3, 1)


def of_unknown_sizes(layer):
    """The layer as TensorFlow's graph of any size; elsewhere as it is."""
    if support.BACKEND != "tensorflow":
        return layer
    import tensorflow as tf

    signature = [tf.TensorSpec((None, None, 5), "float32")]
    return tf.function(lambda x: layer(x), input_signature=signature)


@pytest.mark.parametrize("known", [True, False])
def test_few_tokens_have_one_slot(known):
    """Of each expert, on every backend, of known lengths and unknown ones."""
    layer = layers.ExpertChoiceMoE(8, 1.0, **SMALL)
    layer.build((None, None, 5))
    call = layer if known else of_unknown_sizes(layer)
    tokens = np.random.default_rng(0).normal(size=(1, 2, 5)).astype("float32")
    logits = tokens[0] @ ops.convert_to_numpy(layer.router_kernel)
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    outputs = ops.convert_to_numpy(call(tokens))[0]
    slots = np.repeat(tokens[0][gates.argmax(0)][None, :, None], 1, axis=0)
    made = ops.convert_to_numpy(layer.experts(slots))[0, :, 0]
    expected = np.zeros_like(outputs)
    for e, t in enumerate(gates.argmax(0)):
        expected[t] += gates[t, e] * made[e]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_a_cap_leaves_slots_of_short_inputs_empty(known):
    """A token has 2 experts at most, so 2 tokens leave 4 of 8 slots empty."""
    layer = layers.ExpertChoiceMoE(8, 2.0, max_experts_per_token=2, **SMALL)
    layer.build((None, None, 5))
    call = layer if known else of_unknown_sizes(layer)
    rng = np.random.default_rng(0)
    for length in (1, 2, 6, 8):
        tokens = rng.normal(size=(1, length, 5)).astype("float32")
        with diagnostics.capture() as plans:
            layer(tokens)
        dispatch, _ = plans[layer.path].weights()
        dispatch = ops.convert_to_numpy(dispatch)[0]
        taken = dispatch.sum((1, 2))
        np.testing.assert_array_equal(taken, np.full(length, 2))
        assert dispatch.sum(0).max() <= 1
        np.testing.assert_allclose(
            *(ops.convert_to_numpy(f(tokens)) for f in (call, layer)),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("cls", ["expert", "token"])
def test_a_short_last_group_is_one_with_masked_tokens(cls):
    if cls == "expert":
        layer = layers.ExpertChoiceMoE(2, 1.0, group_size=4, **SMALL)
    else:
        layer = layers.TokenChoiceMoE(2, 1, group_size=4, **SMALL)
    layer.build((None, 3, 5))
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3, 3, 5)).astype("float32")
    outputs = of_unknown_sizes(layer)(tokens)
    there = np.arange(12).reshape(4, 3) < 9
    longer = np.concatenate([tokens, np.ones_like(tokens[:1])])
    expected = layer(longer, mask=there)
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs),
        ops.convert_to_numpy(expected)[:3],
        rtol=1e-5,
        atol=1e-6,
    )


# Slots -----------------------------------------------------------------------

SHAPES = [(2, 6, 3), (1, 11, 4), (2, 1, 2)]


def draw_gates(seed, shape, levels):
    """Gates (G,T,E) of few distinct values, so many ties, and a mask."""
    rng = np.random.default_rng(seed)
    gates = rng.integers(1, levels + 1, shape) / 16
    return gates.astype("float32"), rng.random(shape[:2]) > 0.25


def pairs_of(plan_arrays):
    """[{(token, expert), …} for each group] of a plan's token and gate."""
    token, gate = plan_arrays
    found = []
    for g in range(len(token)):
        pairs = [
            (int(token[g, e, s]), e)
            for e in range(token.shape[1])
            for s in range(token.shape[2])
            if gate[g, e, s] != 0
        ]
        assert len(pairs) == len(set(pairs)), "a token sits twice"
        found.append(set(pairs))
    return found


@functools.cache
def expert_choice(capacity, cap=None):
    def choose(gates, mask):
        plan = routing.expert_choice(
            gates, capacity, mask=mask, max_experts_per_token=cap
        )
        return plan.token_index, plan.combine_weights

    return support.compiled(choose)


@functools.cache
def token_choice(top_k, capacity, priority):
    def choose(gates, mask):
        plan = routing.token_choice(
            gates, top_k, capacity, batch_priority=priority, mask=mask
        )
        return plan.token_index, plan.combine_weights

    return support.compiled(choose)


def check_gates(gates, plan_arrays):
    """The weight of a capacity slot is the gate of its token."""
    token, gate = plan_arrays
    for place in np.argwhere(gate != 0):
        g, e, _ = place
        assert gate[tuple(place)] == gates[g, token[tuple(place)], e]


@few
@given(st.sampled_from(SHAPES), seeds, st.sampled_from([1, 2, 12]))
def test_expert_choice_slots(shape, seed, levels):
    gates, mask = draw_gates(seed, shape, levels)
    capacity = max(1, shape[1] // 2)
    plan = expert_choice(capacity)(gates, mask)
    assert pairs_of(plan) == oracle.expert_choice_slots(gates, capacity, mask)
    check_gates(gates, plan)
    everyone = np.ones_like(mask)
    plan = expert_choice(capacity)(gates, everyone)
    assert pairs_of(plan) == oracle.expert_choice_slots(gates, capacity)


@pytest.mark.parametrize("priority", [False, True])
@few
@given(st.sampled_from(SHAPES), seeds, st.sampled_from([1, 2, 12]))
def test_token_choice_slots(priority, shape, seed, levels):
    gates, mask = draw_gates(seed, shape, levels)
    for top_k, capacity in ((2, 2), (1, 3)):
        plan = token_choice(top_k, capacity, priority)(gates, mask)
        expected, _ = oracle.token_choice_slots(
            gates, top_k, capacity, priority, mask
        )
        assert pairs_of(plan) == expected
        check_gates(gates, plan)


def test_token_choice_holds_no_number_that_could_overflow(monkeypatch):
    """Keys are experts and slots are found by counts: none is a product.

    A key that orders pairs by expert, choice and token in one number reaches
    E · k · T, which 8 bits do not hold here and 32 bits not at 4096 experts.
    """
    sorted_by = []

    def sort(x):
        sorted_by.append(x)
        return ops.argsort(x, axis=-1)

    for module in (capacities, sorting):
        monkeypatch.setattr(module, "ascending", sort)
    gates, mask = draw_gates(0, (2, 40, 8), 12)
    for priority in (False, True):
        plan = routing.token_choice(
            ops.convert_to_tensor(gates),
            2,
            5,
            batch_priority=priority,
            mask=ops.convert_to_tensor(mask),
        )
        expected, _ = oracle.token_choice_slots(gates, 2, 5, priority, mask)
        assert (
            pairs_of(support.numpy((plan.token_index, plan.combine_weights)))
            == expected
        )
    largest = [np.abs(support.numpy(keys)).max() for keys in sorted_by]
    assert len(largest) >= 3 and max(largest) <= 8


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("router", ["expert", "token", "priority"])
def test_poison_in_masked_gates_reaches_nothing(router, poison):
    gates, mask = draw_gates(0, (2, 6, 3), 12)
    poisoned = np.where(mask[:, :, None], gates, np.float32(poison))

    def total(gates):
        seen = ops.convert_to_tensor(mask)
        if router == "expert":
            plan = routing.expert_choice(gates, 3, mask=seen)
        else:
            priority = router == "priority"
            plan = routing.token_choice(
                gates, 2, 2, batch_priority=priority, mask=seen
            )
        return ops.sum(ops.square(plan.combine_weights)), (
            plan.token_index,
            plan.combine_weights,
        )

    (_, plan), (grad,) = support.value_and_grads(total, poisoned)
    (_, expected), (wanted,) = support.value_and_grads(total, gates)
    assert pairs_of(plan) == pairs_of(expected)
    np.testing.assert_array_equal(plan[1], expected[1])
    np.testing.assert_array_equal(grad, wanted)


def test_no_mask_is_a_mask_of_everyone():
    gates, mask = draw_gates(0, (2, 6, 3), 12)
    for choose in (expert_choice(3), token_choice(2, 2, True)):
        everyone = choose(gates, np.ones_like(mask))
        nobody_hidden = choose(gates, None)
        np.testing.assert_array_equal(everyone[1], nobody_hidden[1])
        assert pairs_of(everyone) == pairs_of(nobody_hidden)


# Sizes known only at run time ------------------------------------------------

SMALL = {"intermediate_dim": 4, **UNDRAWN}
LAYERS = {
    "soft": lambda: layers.SoftMoE(3, 2, **SMALL),
    "expert choice": lambda: layers.ExpertChoiceMoE(3, 1.0, **SMALL),
    "capped": lambda: layers.ExpertChoiceMoE(
        4, 1.5, max_experts_per_token=2, **SMALL
    ),
    "runs": lambda: layers.ExpertChoiceMoE(2, 1.0, group_size=2, **SMALL),
    "token choice": lambda: layers.TokenChoiceMoE(
        3, 2, capacity_factor=0.7, **SMALL
    ),
    "mixture": lambda: layers.MixtureOfTokens(3, 4, **SMALL),
    "mixture along the sequence": lambda: layers.MixtureOfTokens(
        3, 4, group_axis="sequence", padding="zeros", **SMALL
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_sizes_may_be_unknown(name):
    """One layer, built for unknown sizes, agrees with layers for known ones.

    On tensorflow one graph for all sizes serves both; elsewhere a compiled
    (torch: eager) call per size does, with the same weights.
    """
    layer = LAYERS[name]()
    layer.build((None, None, 5))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    call = any_size(layer)
    for batch, length in ((2, 7), (3, 8)) if name != "runs" else ((2, 4),):
        inputs = rng.normal(size=(batch, length, 5)).astype("float32")
        mask = rng.random((batch, length)) > 0.2
        known = LAYERS[name]()
        known.build((batch, length, 5))
        known.set_weights(layer.get_weights())
        expected = support.run(
            lambda x, m, known=known: known(x, mask=m), inputs, mask
        )
        np.testing.assert_allclose(
            call(inputs, mask), expected, rtol=1e-5, atol=1e-5
        )


def any_size(layer):
    """The layer as one function of inputs (B,N,D) and mask of any B and N."""
    if support.BACKEND != "tensorflow":
        return support.compiled(lambda x, mask: layer(x, mask=mask))
    import tensorflow as tf

    signature = [
        tf.TensorSpec((None, None, 5), "float32"),
        tf.TensorSpec((None, None), "bool"),
    ]

    @tf.function(input_signature=signature)
    def call(inputs, mask):
        assert inputs.shape[0] is None and inputs.shape[1] is None
        return layer(inputs, mask=mask)

    return lambda *arrays: ops.convert_to_numpy(call(*arrays))

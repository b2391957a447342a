"""How models choose experts, against statements of their rules in numpy."""

import numpy as np
import pytest
from keras import ops

from keras_moe import scoring
from tests import support
from tests.layers.test_errors import raises

G, T, E = 2, 5, 8
LOGITS = np.random.default_rng(0).normal(size=(G, T, E)).astype("float32")
BIAS = np.random.default_rng(1).normal(size=E).astype("float32")
MASK = np.array([[True] * 4 + [False], [True] * 5])


def choose(logits=LOGITS, top_k=3, **options):
    """Experts and gates as numpy arrays."""
    made = support.run(
        lambda logits: scoring.choose_experts(logits, top_k, **options)[:2],
        logits,
    )
    return [ops.convert_to_numpy(array) for array in made]


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def deepseek(logits, top_k, bias, groups, top_groups, scaling):
    """arXiv 2412.19437, equations 12 to 16, one token after another."""
    experts = np.zeros((*logits.shape[:2], top_k), "int32")
    gates = np.zeros(experts.shape)
    for place in np.ndindex(logits.shape[:2]):
        affinity = sigmoid(logits[place])
        order = affinity + bias
        members = order.reshape(groups, -1)
        score = np.sort(members, axis=-1)[:, -2:].sum(-1)
        for group in np.argsort(-score)[top_groups:]:
            members[group] = -np.inf
        experts[place] = np.argsort(-members.reshape(-1))[:top_k]
        gate = affinity[experts[place]]
        gates[place] = scaling * gate / gate.sum()
    return experts, gates


@pytest.mark.parametrize("groups, top_groups", [(4, 2), (2, 1), (8, 5), (1, 1)])
def test_deepseek(groups, top_groups):
    found = choose(
        scoring="sigmoid",
        normalize_gates=True,
        routed_scaling=2.5,
        balance_bias=ops.convert_to_tensor(BIAS),
        num_expert_groups=groups,
        top_groups=top_groups,
    )
    expected = deepseek(LOGITS, 3, BIAS, groups, top_groups, 2.5)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


@pytest.mark.parametrize("name", scoring.SCORINGS)
@pytest.mark.parametrize("normalized", [False, True])
def test_gates(name, normalized):
    experts, gates = choose(scoring=name, normalize_gates=normalized)
    order = np.argsort(-LOGITS, axis=-1, kind="stable")[..., :3]
    np.testing.assert_array_equal(experts, order)
    chosen = np.take_along_axis(LOGITS, order, -1)
    expected = {
        "softmax": np.take_along_axis(softmax(LOGITS), order, -1),
        "sigmoid": sigmoid(chosen),
        "softmax_top_k": softmax(chosen),
    }[name]
    if normalized:
        expected = expected / expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(gates, expected, rtol=1e-5)


def test_normalized_softmax_is_the_softmax_of_the_chosen_logits():
    one = choose(normalize_gates=True)
    other = choose(scoring="softmax_top_k")
    for found, expected in zip(one, other):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ties_go_to_the_first_experts():
    experts, _ = choose(np.zeros((1, 3, E), "float32"))
    np.testing.assert_array_equal(experts, np.tile(np.arange(3), (1, 3, 1)))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_masked_tokens_have_no_experts(poison):
    logits = np.where(MASK[:, :, None], LOGITS, poison).astype("float32")
    options = {"num_expert_groups": 4, "top_groups": 2, "scoring": "sigmoid"}
    experts, gates = choose(logits, mask=MASK, **options)
    plain = choose(**options)
    assert (experts[~MASK] == E).all() and (gates[~MASK] == 0).all()
    np.testing.assert_array_equal(experts[MASK], plain[0][MASK])
    np.testing.assert_allclose(gates[MASK], plain[1][MASK], rtol=1e-6)


@pytest.mark.parametrize("name", scoring.SCORINGS)
def test_gradients_pass_through_gates_alone(name):
    """By differences, with a bias that decides the choice whatever they are."""
    fixed = 100 * np.arange(E, dtype="float32")
    weights = np.random.default_rng(2).normal(size=(G, T, 3)).astype("float32")

    def value(logits):
        made = scoring.choose_experts(
            logits,
            3,
            scoring=name,
            normalize_gates=True,
            balance_bias=ops.convert_to_tensor(fixed),
        )
        return ops.sum(made.gate * ops.convert_to_tensor(weights))

    (grad,) = support.value_and_grads(value, LOGITS)[1]
    change = np.random.default_rng(4).normal(size=LOGITS.shape)
    change = 1e-3 * change.astype("float32")
    ends = [support.run(value, LOGITS + s * change) for s in (1, -1)]
    difference = (float(ends[0]) - float(ends[1])) / 2
    along = float((ops.convert_to_numpy(grad) * change).sum())
    np.testing.assert_allclose(along, difference, rtol=2e-2, atol=1e-5)


def test_the_balance_bias_moves_towards_balance():
    expert = np.array([[[0, 1], [0, 2], [0, 3], [E, E]]], "int32")
    moved = scoring.moved_balance_bias(
        ops.convert_to_tensor(np.zeros(4, "float32")),
        ops.convert_to_tensor(np.where(expert == E, 4, expert)),
        0.1,
    )
    expected = [-0.1, 0.1, 0.1, 0.1]  # loads 3, 1, 1, 1; mean 1.5
    np.testing.assert_allclose(ops.convert_to_numpy(moved), expected)


def test_numbers_that_do_not_fit():
    with raises("top_k must be an integer from 1 to the number of experts, 8"):
        choose(top_k=9)
    with raises("top_groups must be given where num_expert_groups is; recei"):
        choose(num_expert_groups=2)
    with raises("num_expert_groups must be given where top_groups is; recei"):
        choose(top_groups=2)
    with raises("num_expert_groups must divide the number of experts, 8; re"):
        choose(num_expert_groups=3, top_groups=1)
    with raises("top_groups must not exceed num_expert_groups, 2; received 3"):
        choose(num_expert_groups=2, top_groups=3)
    with raises("top_k must not exceed the number of experts in top_groups"):
        choose(num_expert_groups=4, top_groups=1)

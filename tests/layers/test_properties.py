"""What must hold of every router, whatever its numbers."""

import functools

import numpy as np
import pytest

from keras_moe import layers
from keras_moe import routing
from tests import support
from tests.built import UNDRAWN

B, N, D, E = 3, 6, 4, 3


def make(name):
    options = {"num_experts": E, "intermediate_dim": 5, **UNDRAWN}
    if name == "soft":
        return layers.SoftMoE(slots_per_expert=2, **options)
    if name == "expert choice":
        return layers.ExpertChoiceMoE(capacity_factor=1.0, **options)
    if name == "capped":
        return layers.ExpertChoiceMoE(
            capacity_factor=1.0, max_experts_per_token=1, **options
        )
    if name == "token choice":  # some tokens are dropped
        return layers.TokenChoiceMoE(top_k=2, capacity_factor=0.7, **options)
    if name == "batch priority":
        return layers.TokenChoiceMoE(
            top_k=2, capacity_factor=0.7, batch_priority=True, **options
        )
    if name == "ample token choice":
        return layers.TokenChoiceMoE(top_k=2, capacity_factor=E, **options)
    if name == "mixture along the sequence":
        return layers.MixtureOfTokens(
            group_size=4, group_axis="sequence", **options
        )
    mixing = name.removeprefix("mixture ")
    return layers.MixtureOfTokens(
        group_size=3, inference_mixing=mixing, **options
    )


INSIDE_A_SEQUENCE = [
    "soft",
    "expert choice",
    "capped",
    "token choice",
    "batch priority",
    "ample token choice",
    "mixture along the sequence",
]
MIXTURES = [f"mixture {m}" for m in ("group", "self", "argmax", "discrete")]
ALL = INSIDE_A_SEQUENCE + MIXTURES


@functools.cache
def built(name):
    """A layer, biases and all drawn at random, and it compiled."""
    layer = make(name)
    layer.build((B, N, D))
    rng = np.random.default_rng(3)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return layer, support.compiled(lambda x, mask: layer(x, mask=mask))


def call(name, inputs, mask=None):
    mask = np.ones(inputs.shape[:2], bool) if mask is None else mask
    return built(name)[1](inputs, mask)


def draw(seed=0, shape=(B, N, D)):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def differ(a, b):
    return not np.allclose(a, b, rtol=1e-3, atol=1e-3)


# Order and company ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["soft", "expert choice", "batch priority", "ample token choice"]
)
def test_permuted_tokens_give_permuted_outputs(name):
    inputs = draw()
    order = np.random.default_rng(1).permutation(N)
    assert_close(call(name, inputs[:, order]), call(name, inputs)[:, order])


def test_the_order_matters_where_earlier_tokens_sit_first():
    inputs = draw()
    order = np.arange(N)[::-1]
    assert differ(
        call("token choice", inputs[:, order]),
        call("token choice", inputs)[:, order],
    )


@pytest.mark.parametrize(
    "name", [*INSIDE_A_SEQUENCE, "mixture self", "mixture argmax"]
)
def test_batch_mates_change_nothing(name):
    inputs = draw()
    others = draw(1)
    others[1] = inputs[1]
    assert_close(call(name, inputs)[1], call(name, others)[1])


@pytest.mark.parametrize("name", ["mixture group", "mixture discrete"])
def test_batch_mates_matter_in_a_mixture_of_the_group(name):
    inputs = draw()
    others = draw(1)
    others[1] = inputs[1]
    assert differ(call(name, inputs)[1], call(name, others)[1])


@pytest.mark.parametrize("name", MIXTURES)
def test_no_position_reads_another_in_a_mixture_over_the_batch(name):
    inputs = draw()
    for changed in (0, N // 2, N - 1):
        others = inputs.copy()
        others[:, changed] += 1.0
        was, now = call(name, inputs), call(name, others)
        assert differ(was[:, changed], now[:, changed])
        rest = np.arange(N) != changed
        assert_close(was[:, rest], now[:, rest])


def test_a_mixture_along_the_sequence_reads_its_group_only():
    inputs = draw()
    others = inputs.copy()
    others[:, 3] += 1.0  # groups are positions 0 to 3 and 4 to 5
    was = call("mixture along the sequence", inputs)
    now = call("mixture along the sequence", others)
    assert differ(was[:, :3], now[:, :3])
    assert_close(was[:, 4:], now[:, 4:])


# Masks ------------------------------------------------------------------------


def some_hidden():
    mask = np.random.default_rng(5).random((B, N)) > 0.3
    mask[1] = False
    mask[0, 0] = False
    return mask


@pytest.mark.parametrize("name", ALL)
def test_masked_tokens_give_zero_and_change_nothing(name):
    mask = some_hidden()
    inputs = draw()
    outputs = call(name, inputs, mask)
    assert (outputs[~mask] == 0).all()
    others = np.where(mask[:, :, None], inputs, 100 * draw(1))
    assert_close(call(name, others, mask), outputs)
    assert differ(outputs, call(name, inputs))  # or the mask did nothing


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_at_zero_rows_and_full_masks(name):
    layer, _ = built(name)
    mask = some_hidden()
    inputs = np.where(mask[:, :, None], draw(), 0)
    inputs[0, -1] = 0.0  # a zero row that is not masked
    mask[0, -1] = True
    _, _, grads = support.layer_grads(layer, inputs, draw(2), mask=mask)
    assert len(grads) == 1 + len(layer.trainable_variables)
    for what, grad in grads.items():
        assert np.isfinite(grad).all(), what
    assert (grads["inputs"][~mask] == 0).all()
    assert np.abs(grads["inputs"][mask]).max() > 0


# Plans ------------------------------------------------------------------------


@pytest.mark.parametrize("emit_over_experts", [None, False, True])
def test_soft_weights_sum_to_one(emit_over_experts):
    """Dispatch over tokens; combine over slots, or over tokens.

    `None` stands for Soft MoE.
    """
    mask = some_hidden()

    def weights(tokens, slots, mask):
        if emit_over_experts is None:
            return routing.soft_moe(tokens, slots, mask=mask).weights()
        return routing.mixture_of_tokens(
            tokens,
            slots[:, :, 0],
            mask=mask,
            emit_over_experts=emit_over_experts,
        ).weights()

    dispatch, combine = support.run(weights, draw(), draw(1, (D, E, 2)), mask)
    assert (dispatch >= 0).all() and (combine >= 0).all()
    any_token = mask.any(axis=1)[:, None, None]
    expected = np.broadcast_to(any_token, dispatch.sum(axis=1).shape)
    assert_close(dispatch.sum(axis=1), expected)
    if emit_over_experts is False:
        assert_close(combine.sum(axis=1), expected)
    else:
        assert_close(combine.sum(axis=(2, 3)), mask)


def gates_of(seed=0, shape=(B, N, E)):
    logits = np.exp(2 * draw(seed, shape))
    return logits / logits.sum(axis=-1, keepdims=True)


def test_expert_choice_fills_every_capacity_slot():
    for capacity in (1, 4, N):
        gate = support.run(
            lambda gates, s=capacity: (
                routing.expert_choice(gates, s).combine_weights
            ),
            gates_of(),
        )
        assert gate.shape == (B, E, capacity)
        assert (gate > 0).all()


@pytest.mark.parametrize("priority", [False, True])
def test_token_choice_serves_first_choices_before_second(priority):
    capacity, gates = 3, gates_of(shape=(8, N, E))

    def slots_of(gates):
        plan = routing.token_choice(gates, 2, capacity, batch_priority=priority)
        return plan.token_index, plan.combine_weights

    token, gate = support.run(slots_of, gates)
    assert gate.shape == (8, E, capacity)
    order = np.argsort(-gates, axis=-1, kind="stable")
    displaced = 0
    for g in range(8):
        for e in range(E):
            sits = token[g, e][gate[g, e] != 0].tolist()
            first = [t for t in range(N) if order[g, t, 0] == e]
            second = [t for t in range(N) if order[g, t, 1] == e]
            assert set(sits) <= {*first, *second}
            first_choices = [t for t in sits if t in first]
            assert len(first_choices) == min(capacity, len(first))
            assert len(sits) == min(capacity, len(first) + len(second))
            # In each choice those with the best claim: earlier, or (with
            # priority) more certain.
            for asked in (first, second):
                if priority:
                    asked.sort(key=lambda t: -gates[g, t].max())
                inside = [t in sits for t in asked]
                assert inside == sorted(inside, reverse=True)
                displaced += inside.count(False)
    assert displaced > 0  # or nothing was at stake

"""Soft MoE, Expert Choice and token choice against the loops of `oracle.py`.

Shapes come from short lists, so that each is compiled once; hypothesis draws
the seed of the values and what is masked.
"""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_moe import layers
from keras_moe import routing
from tests import oracle
from tests import support
from tests.built import MASKS
from tests.built import UNDRAWN
from tests.built import Built
from tests.built import assert_close
from tests.built import few
from tests.built import seeds

# Soft MoE ---------------------------------------------------------------------
SOFT = [
    ((2, 5, 3), {"num_experts": 3, "slots_per_expert": 2}),
    ((1, 1, 4), {"num_experts": 1, "slots_per_expert": 1, "use_bias": False}),
    (
        (2, 7, 2),
        {
            "num_experts": 2,
            "slots_per_expert": 3,
            "normalize": False,
            "gated": True,
            "activation": "gelu_tanh",
        },
    ),
]


@functools.cache
def soft(index):
    shape, options = SOFT[index]
    return Built(
        layers.SoftMoE(intermediate_dim=6, **options, **UNDRAWN), shape
    )


@pytest.mark.parametrize("index", range(len(SOFT)))
@few
@given(seed=seeds, hidden=st.sampled_from(MASKS))
def test_soft_moe(index, seed, hidden):
    built = soft(index)
    inputs, mask, weights = built.draw(seed, hidden)
    outputs, _ = built(inputs, mask, weights)
    expected, _, _ = oracle.soft_moe(
        inputs,
        weights["slot_embedding"].astype("float64"),
        weights.get("scale"),
        built.experts(weights),
        normalize=built.layer.normalize,
        mask=mask,
    )
    assert_close(outputs, expected)


@functools.cache
def soft_weights(normalize):
    def weights(tokens, slots, scale, noise, mask):
        scale = scale if normalize else None
        return routing.soft_moe(
            tokens, slots, scale, normalize=normalize, noise=noise, mask=mask
        ).weights()

    return support.compiled(weights)


@pytest.mark.parametrize("normalize", [True, False])
@few
@given(seed=seeds)
def test_soft_moe_weights_with_noise(normalize, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(2, 5, 3)).astype("float32")
    slots = rng.normal(size=(3, 2, 2)).astype("float32")
    noise = rng.normal(size=(2, 5, 2, 2)).astype("float32")
    mask = rng.random((2, 5)) > 0.3
    scale = np.float32(rng.uniform(0.5, 5.0))
    weights = soft_weights(normalize)(tokens, slots, scale, noise, mask)
    _, *expected = oracle.soft_moe(
        tokens,
        slots.astype("float64"),
        scale,
        lambda e, vector: vector,
        normalize=normalize,
        mask=mask,
        noise=noise,
    )
    assert_close(weights[0], expected[0])
    assert_close(weights[1], expected[1])


# Expert Choice and token choice -----------------------------------------------
CHOICE = [
    ((2, 6, 4), {"num_experts": 4, "capacity_factor": 1.0}),  # 1.5 -> 2 slots
    (
        (2, 5, 3),  # 2.5 -> 2 slots: half to even
        {"num_experts": 2, "capacity_factor": 1.0, "router_bias": True},
    ),
    (
        (2, 5, 3),
        {
            "num_experts": 2,
            "capacity_factor": 1.0,
            "capacity_rounding": "ceil",
            "use_bias": False,
        },
    ),
    (
        (2, 6, 3),
        {
            "num_experts": 3,
            "capacity_factor": 1.0,
            "capacity_multiple_of": 4,
            "group_size": 4,  # spans both sequences
            "gated": True,
            "activation": "relu",
        },
    ),
]
TOKEN = [
    ((2, 6, 4), {"num_experts": 3, "top_k": 2}),
    ((2, 7, 3), {"num_experts": 4, "top_k": 1, "capacity_factor": 0.5}),
    (
        (2, 7, 3),
        {
            "num_experts": 4,
            "top_k": 2,
            "capacity_factor": 0.6,
            "batch_priority": True,
        },
    ),
    (
        (2, 6, 3),
        {
            "num_experts": 3,
            "top_k": 3,
            "capacity_factor": 0.3,
            "capacity_multiple_of": 2,
            "group_size": 4,
            "activation": "relu",
        },
    ),
]


@functools.cache
def choice(kind, index):
    shape, options = (CHOICE if kind == "expert" else TOKEN)[index]
    make = layers.ExpertChoiceMoE
    make = make if kind == "expert" else layers.TokenChoiceMoE
    return Built(make(intermediate_dim=6, **options, **UNDRAWN), shape)


def grouped(built, inputs, mask):
    """(B,N,D) and (B,N) as the groups that the layer makes."""
    size = built.layer.group_size or inputs.shape[1]
    return inputs.reshape(-1, size, inputs.shape[2]), mask.reshape(-1, size)


def expected_expert_choice(built, inputs, mask, weights, noise=0.0):
    layer = built.layer
    tokens, seen = grouped(built, inputs, mask)
    gates = oracle.router_gates(
        tokens,
        weights["router_kernel"].astype("float64"),
        weights.get("router_bias", 0.0),
        noise,
    )
    capacity = oracle.expert_choice_capacity(
        tokens.shape[1],
        layer.num_experts,
        layer.capacity_factor,
        layer.capacity_multiple_of,
        layer.capacity_rounding,
    )
    experts = built.experts(weights)
    return oracle.expert_choice(tokens, gates, capacity, experts, seen)


def expected_token_choice(built, inputs, mask, weights, noise=0.0):
    layer = built.layer
    tokens, seen = grouped(built, inputs, mask)
    kernel = weights["router_kernel"].astype("float64")
    gates = oracle.router_gates(tokens, kernel, noise=noise)
    capacity = oracle.token_choice_capacity(
        tokens.shape[1],
        layer.num_experts,
        layer.top_k,
        layer.capacity_factor,
        layer.capacity_multiple_of,
    )
    return oracle.token_choice(
        tokens,
        gates,
        layer.top_k,
        capacity,
        built.experts(weights),
        layer.batch_priority,
        seen,
    )


@pytest.mark.parametrize("index", range(len(CHOICE)))
@few
@given(seed=seeds, hidden=st.sampled_from(MASKS))
def test_expert_choice(index, seed, hidden):
    built = choice("expert", index)
    inputs, mask, weights = built.draw(seed, hidden)
    outputs, _ = built(inputs, mask, weights)
    expected = expected_expert_choice(built, inputs, mask, weights)
    assert_close(outputs, expected.reshape(inputs.shape))


@pytest.mark.parametrize("index", range(len(TOKEN)))
@few
@given(seed=seeds, hidden=st.sampled_from(MASKS))
def test_token_choice(index, seed, hidden):
    built = choice("token", index)
    inputs, mask, weights = built.draw(seed, hidden)
    outputs, _ = built(inputs, mask, weights)
    expected = expected_token_choice(built, inputs, mask, weights)
    assert_close(outputs, expected.reshape(inputs.shape))


# Noise in training: the layers scale it by the standard deviation that their
# docstrings promise. The draw itself is replaced by a known one.


def noisy(make, shape, noise, **options):
    options = {"num_experts": 3, "noise_std": 1.5, **options, **UNDRAWN}
    layer = make(intermediate_dim=6, **options)
    return Built(layer, shape, training=True, noise=noise)


def draw_noise(*shape):
    return np.random.default_rng(7).normal(size=shape).astype("float32")


def test_noise_of_soft_moe():
    noise = draw_noise(2, 5, 3, 2)
    built = noisy(layers.SoftMoE, (2, 5, 4), noise, slots_per_expert=2)
    inputs, mask, weights = built.draw(0, "some hidden")
    outputs, _ = built(inputs, mask, weights)
    expected, _, _ = oracle.soft_moe(
        inputs,
        weights["slot_embedding"].astype("float64"),
        weights["scale"],
        built.experts(weights),
        mask=mask,
        noise=1.5 * noise,
    )
    assert_close(outputs, expected)


def test_noise_of_expert_choice():
    noise = draw_noise(2, 6, 3)
    built = noisy(layers.ExpertChoiceMoE, (2, 6, 4), noise, capacity_factor=1.0)
    inputs, mask, weights = built.draw(0, "some hidden")
    outputs, _ = built(inputs, mask, weights)
    expected = expected_expert_choice(
        built, inputs, mask, weights, noise=1.5 / 3 * noise
    )
    assert_close(outputs, expected)


def test_noise_of_token_choice():
    noise = draw_noise(2, 6, 3)
    built = noisy(
        layers.TokenChoiceMoE, (2, 6, 4), noise, top_k=2, capacity_factor=0.6
    )
    inputs, mask, weights = built.draw(0, "some hidden")
    outputs, _ = built(inputs, mask, weights)
    expected = expected_token_choice(
        built, inputs, mask, weights, noise=1.5 / 3 * noise
    )
    assert_close(outputs, expected)

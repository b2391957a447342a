"""Mixture of Tokens against the loops of `oracle.py`; see `test_oracle.py`."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_moe import layers
from tests import oracle
from tests.built import MASKS
from tests.built import UNDRAWN
from tests.built import Built
from tests.built import assert_close
from tests.built import few
from tests.built import seeds

# Batches of 5 and lengths of 3 leave the last group of 2 or 4 short.
CASES = {
    "batch": {"group_size": 2},
    "whole batch": {"group_size": 5, "temperature": 0.5},
    "group above batch": {"group_size": 8},
    "padded with zeros": {"group_size": 4, "padding": "zeros"},
    "sequence": {"group_size": 2, "group_axis": "sequence", "gated": True},
    "sequence, zeros": {
        "group_size": 2,
        "group_axis": "sequence",
        "padding": "zeros",
        "emit_over_experts": True,
        "use_bias": False,
    },
    "emit over experts": {
        "group_size": 4,
        "emit_over_experts": True,
        "temperature": 2.0,
    },
    "learned temperatures": {
        "group_size": 2,
        "learn_temperature": True,
        "activation": "relu",
    },
    "learned, emit over experts": {
        "group_size": 4,
        "learn_temperature": True,
        "emit_over_experts": True,
        "padding": "zeros",
    },
    "self": {"group_size": 4, "inference_mixing": "self"},
    "self, emit over experts": {
        "group_size": 4,
        "inference_mixing": "self",
        "emit_over_experts": True,
        "learn_temperature": True,
    },
    "self, learned": {
        "group_size": 4,
        "inference_mixing": "self",
        "learn_temperature": True,
    },
    "argmax": {"group_size": 4, "inference_mixing": "argmax"},
    "argmax, sequence": {
        "group_size": 2,
        "inference_mixing": "argmax",
        "group_axis": "sequence",
    },
    "discrete": {"group_size": 2, "inference_mixing": "discrete"},
    "discrete, zeros": {
        "group_size": 4,
        "inference_mixing": "discrete",
        "padding": "zeros",
    },
    "discrete, emit over experts": {
        "group_size": 4,
        "inference_mixing": "discrete",
        "emit_over_experts": True,
    },
    "one expert": {"group_size": 2, "num_experts": 1},
}


@functools.cache
def mixture(name, training):
    options = {"num_experts": 4, **CASES[name], **UNDRAWN}
    layer = layers.MixtureOfTokens(intermediate_dim=6, **options)
    return Built(layer, (5, 3, 4), training=training)


def check(name, seed, hidden, training):
    built = mixture(name, training)
    layer = built.layer
    inputs, mask, weights = built.draw(seed, hidden)
    outputs, _ = built(inputs, mask, weights)
    expected = oracle.mixture_of_tokens(
        inputs,
        weights["router_kernel"].astype("float64"),
        layer.group_size,
        built.experts(weights),
        weights.get("merge_temperature", layer.temperature),
        weights.get("emit_temperature"),
        layer.group_axis,
        layer.emit_over_experts,
        "group" if training else layer.inference_mixing,
        layer.padding,
        mask,
    )
    assert_close(outputs, expected)


@pytest.mark.parametrize("name", CASES)
@few
@given(seed=seeds, hidden=st.sampled_from(MASKS))
def test_mixture_of_tokens(name, seed, hidden):
    check(name, seed, hidden, training=False)


@pytest.mark.parametrize("name", ["self", "argmax", "discrete"])
@few
@given(seed=seeds, hidden=st.sampled_from(MASKS))
def test_training_mixes_groups_whatever_inference_does(name, seed, hidden):
    check(name, seed, hidden, training=True)

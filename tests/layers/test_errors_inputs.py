"""Inputs and functions: errors say what fits, and show what came."""

import keras
import numpy as np
import pytest

from keras_moe import diagnostics
from keras_moe import initializers
from keras_moe.layers import ExpertChoiceMoE
from tests.layers.test_errors import LAYERS
from tests.layers.test_errors import make
from tests.layers.test_errors import raises

TOKENS = np.ones((2, 8, 6), "float32")


@LAYERS
@pytest.mark.parametrize("shape", [(2, 6), (6,)])
def test_too_few_axes(cls, shape):
    text = (
        f"inputs of {cls.__name__} must have three axes or more, (batch, "
        f"tokens, features); received shape {shape}."
    )
    with raises(text):
        make(cls).build(shape)
    with raises(text):
        make(cls)(np.ones(shape, "float32"))


@LAYERS
def test_unknown_features(cls):
    text = f"inputs of {cls.__name__} must have a known number of features"
    with raises(text):
        make(cls)(keras.Input((8, None)))


@LAYERS
def test_other_inputs_than_built_for(cls):
    layer = make(cls, name="moe")
    layer.build((None, None, 6))
    text = "of layer 'moe' is incompatible with the layer: expected "  # Keras'
    for shape, rest in (
        ((2, 8, 5), "axis -1 of input shape to have value 6, but received"),
        ((2, 8), "min_ndim=3, found ndim=2. Full shape received: (2, 8)"),
        ((2, 2, 4, 5), "axis -1 of input shape to have value 6, but rece"),
    ):
        with raises(text + rest):
            layer(np.ones(shape, "float32"))


@LAYERS
def test_inputs_without_tokens_or_of_integers(cls):
    with raises("inputs must be of a floating dtype; received int32."):
        make(cls)(np.ones((2, 8, 6), "int32"))
    text = "inputs must have one token or more; received shape (2, 0, 6)."
    with raises(text):
        make(cls)(np.ones((2, 0, 6), "float32"))
    nothing = np.ones((0, 8, 6), "float32")  # an empty batch is one
    assert tuple(make(cls)(nothing).shape) == nothing.shape


@LAYERS
@pytest.mark.parametrize("shape", [(2, 7), (2,), (2, 8, 6), (3, 8)])
def test_mask_of_another_shape(cls, shape):
    text = (
        "mask must have the shape of inputs without the features, (2, 8); "
        f"received shape {shape}"
    )
    with raises(text):
        make(cls)(TOKENS, mask=np.ones(shape, "bool"))


@LAYERS
def test_mask_of_numbers(cls):
    layer = make(cls)
    mask = [[True] * 5 + [False] * 3] * 2
    one, other = (
        keras.ops.convert_to_numpy(layer(TOKENS, mask=m))
        for m in (mask, np.array(mask, "int32"))
    )
    np.testing.assert_array_equal(one, other)
    with raises("mask must be Boolean, or integers that are 0 where a token"):
        layer(TOKENS, mask=np.full((2, 8), 0.5, "float32"))


def test_a_cap_that_leaves_slots_empty():
    with raises(
        "max_experts_per_token must leave enough tokens to fill the experts; "
        "received max_experts_per_token=1, and 8 tokens cannot fill 4 experts"
    ):
        make(ExpertChoiceMoE, capacity_factor=2.0, max_experts_per_token=1)(
            TOKENS
        )


# === Functions ===


def test_functions():
    with raises("initializer must be a Keras initialiser or its name; rec"):
        initializers.PerExpert("glorot")
    with raises("identical must be True or False; received 'no' (str)"):
        initializers.PerExpert("zeros", identical="no")
    with raises("plan must be a SoftPlan, a HardPlan or a GroupedPlan"):
        diagnostics.summarize(TOKENS)

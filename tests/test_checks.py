"""Numbers that a float does not hold are refused by name."""

import fractions

import numpy as np
import pytest

from keras_moe import checks
from keras_moe import layers

pytestmark = pytest.mark.once
HUGE = 10**400


@pytest.mark.parametrize(
    "value",
    [HUGE, -HUGE, fractions.Fraction(HUGE), np.inf, np.nan, 10**5000],
    ids=["huge", "negative", "fraction", "infinity", "nan", "unprintable"],
)
def test_numbers_beyond_a_float(value):
    for minimum in (0.0, -np.inf):
        with pytest.raises(
            ValueError, match="^noise_std must be a finite numb"
        ):
            checks.real("noise_std", value, minimum)
    with pytest.raises(ValueError, match="^dropout must be a number from 0"):
        checks.rate("dropout", value)
    with pytest.raises(ValueError, match="^noise_std must be a finite number"):
        layers.SoftMoE(2, 2, intermediate_dim=2, noise_std=value)


def test_long_integers_are_told_by_their_bits():
    with pytest.raises(ValueError, match="received an integer of 16610 bits"):
        checks.integer("num_experts", -(10**5000))


def test_numbers_that_fit():
    for value in (2**1023, np.float16(3), np.float32(1e38), np.int8(-3)):
        found = checks.real("head_bias", value, minimum=-np.inf)
        assert type(found) is float and found == float(value)

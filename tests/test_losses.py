"""Auxiliary losses against plain loops, and how the layer adds them."""

import numpy as np
import pytest
from hypothesis import given
from keras import ops

from keras_moe import layers
from keras_moe import losses
from tests import oracle
from tests import oracle_losses
from tests import support
from tests.built import UNDRAWN
from tests.built import Built
from tests.built import few
from tests.built import seeds

SHAPE = (3, 7, 4)
TOP_K = 2
STD = 0.5


def draw(seed):
    """Logits, noisy logits, and a mask that leaves each group some token."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=SHAPE).astype("float32")
    noisy = logits + STD * rng.normal(size=SHAPE).astype("float32")
    mask = rng.random(SHAPE[:2]) > 0.4
    mask[:, 2] = True
    return logits, noisy, mask


def softmax(logits):
    return np.array([[oracle.softmax(row) for row in g] for g in logits])


def all_losses(logits, noisy, mask):
    gates = ops.softmax(logits, axis=-1)
    return {
        "importance": losses.importance_loss(gates, mask),
        "load": losses.load_loss(logits, noisy, STD, TOP_K, mask),
        "balance": losses.balance_loss(gates, mask),
        "z": losses.z_loss(logits, mask),
    }


compiled = support.compiled(all_losses)


def expected_losses(logits, noisy, mask):
    """Means over groups; that of z over all tokens."""
    gates = softmax(logits)
    groups = [
        (gates[g][mask[g]], logits[g][mask[g]], noisy[g][mask[g]])
        for g in range(len(mask))
    ]
    return {
        "importance": np.mean(
            [oracle_losses.importance_loss(gates) for gates, _, _ in groups]
        ),
        "load": np.mean(
            [
                oracle_losses.load_loss(logits, noisy, TOP_K, STD)
                for _, logits, noisy in groups
            ]
        ),
        "balance": np.mean(
            [oracle_losses.balance_loss(gates) for gates, _, _ in groups]
        ),
        "z": oracle_losses.z_loss(logits[mask]),
    }


def assert_close(values, expected):
    assert set(values) == set(expected)
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], 2e-4, err_msg=name)


@few
@given(seeds)
def test_losses(seed):
    logits, noisy, mask = draw(seed)
    everyone = np.ones_like(mask)
    for seen, given_mask in ((mask, mask), (everyone, everyone)):
        assert_close(
            compiled(logits, noisy, given_mask),
            expected_losses(logits, noisy, seen),
        )


def test_no_mask_is_a_mask_of_everyone():
    logits, noisy, mask = draw(0)
    everyone = np.ones_like(mask)
    assert_close(
        compiled(logits, noisy, None), compiled(logits, noisy, everyone)
    )


def test_what_is_masked_is_not_seen():
    logits, noisy, mask = draw(0)
    hidden = ~mask[:, :, None]
    assert_close(
        compiled(logits + 50 * hidden, noisy - 9 * hidden, mask),
        compiled(logits, noisy, mask),
    )


def test_a_group_without_tokens_counts_zero():
    logits, noisy, mask = draw(0)
    mask[1] = False
    values = compiled(logits, noisy, mask)
    expected = expected_losses(
        logits[[0, 2]], noisy[[0, 2]], mask[[0, 2]]
    )  # means over two groups, to be means over three
    for name in ("importance", "load", "balance"):
        expected[name] *= 2 / 3
    assert_close(values, expected)
    nobody = compiled(logits, noisy, np.zeros_like(mask))
    assert_close(nobody, dict.fromkeys(values, 0.0))


def test_balanced_gates_cost_nothing_or_one():
    # Token t prefers expert t mod E: each is first for as many.
    gates = np.full((1, 8, 4), 0.1, "float32")
    gates[0, np.arange(8), np.arange(8) % 4] = 0.7

    def both(gates):
        return losses.importance_loss(gates), losses.balance_loss(gates)

    importance, balance = support.run(both, gates)
    np.testing.assert_allclose(importance, 0.0, atol=1e-6)
    np.testing.assert_allclose(balance, 1.0, rtol=1e-6)


@pytest.mark.parametrize("hide_all", [False, True])
def test_gradients_are_finite(hide_all):
    logits, noisy, mask = draw(0)
    mask[1] = False
    if hide_all:
        mask[:] = False

    def total(logits, noisy):
        values = all_losses(logits, noisy, ops.convert_to_tensor(mask))
        return sum(values.values()) + 0.0 * ops.sum(logits)

    _, grads = support.value_and_grads(total, logits, noisy)
    for grad in grads:
        assert np.isfinite(grad).all()
        assert (grad[~mask] == 0).all()
        assert hide_all or np.abs(grad[mask]).max() > 0


@pytest.mark.parametrize("shape", [(0, 7, 4), (3, 0, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_nothing_are_zero(shape, masked):
    nothing = np.zeros(shape, "float32")
    mask = np.ones(shape[:2], bool) if masked else None

    def total(logits, noisy, weight):
        seen = None if mask is None else ops.convert_to_tensor(mask)
        values = all_losses(logits * weight, noisy * weight, seen)
        return sum(values.values()), values

    weight = np.ones(4, "float32")
    (_, values), grads = support.value_and_grads(
        total, nothing, nothing, weight
    )
    assert_close(values, dict.fromkeys(values, 0.0))
    np.testing.assert_array_equal(grads[2], np.zeros(4))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_poison_in_masked_tokens_reaches_nothing(poison):
    logits, noisy, mask = draw(0)
    mask[1] = False
    gates = softmax(logits).astype("float32")

    def total(logits, noisy, gates):
        seen = ops.convert_to_tensor(mask)
        values = {
            "importance": losses.importance_loss(gates, seen),
            "load": losses.load_loss(logits, noisy, STD, TOP_K, seen),
            "balance": losses.balance_loss(gates, seen),
            "z": losses.z_loss(logits, seen),
        }
        return sum(values.values()), values

    arrays = (logits, noisy, gates)
    poisoned = [a.copy() for a in arrays]
    for array in poisoned:
        array[~mask] = poison
    (_, values), grads = support.value_and_grads(total, *poisoned)
    (_, expected), clean = support.value_and_grads(total, *arrays)
    assert_close(values, expected)
    for grad, wanted in zip(grads, clean):
        np.testing.assert_allclose(grad, wanted, 1e-4, 1e-6)


# In the layer -----------------------------------------------------------------

WEIGHTS = {
    "importance_loss": 0.3,
    "load_loss": 0.5,
    "balance_loss": 0.7,
    "z_loss": 0.11,
}


def built(training, noise_std, **weights):
    noise = np.random.default_rng(9).normal(size=SHAPE).astype("float32")
    layer = layers.TokenChoiceMoE(
        4, TOP_K, noise_std=noise_std, intermediate_dim=3, **weights, **UNDRAWN
    )
    made = Built(layer, (*SHAPE[:2], 5), training=training, noise=noise)
    inputs, mask, weights = made.draw(0, "some hidden")
    logits = inputs.astype("float64") @ weights["router_kernel"]
    noisy = logits + noise_std / 4 * noise
    _, found = made(inputs, mask, weights)
    return found, logits, noisy, mask


def test_the_layer_adds_each_loss_with_its_weight():
    # The noise is so large that its standard deviation is STD on a logit.
    found, logits, noisy, mask = built(True, 4 * STD, **WEIGHTS)
    expected = expected_losses(logits, noisy, mask)
    # Of the noise-free gates is the importance, of the noisy ones the balance.
    of_noisy = expected_losses(noisy, noisy, mask)
    np.testing.assert_allclose(
        found,
        [
            0.3 * expected["importance"],
            0.5 * expected["load"],
            0.7 * of_noisy["balance"],
            0.11 * expected["z"],
        ],
        rtol=1e-3,
    )


def test_without_noise_there_is_no_load_loss():
    for training, noise_std in ((False, 4 * STD), (True, 0.0)):
        found, logits, _, mask = built(training, noise_std, **WEIGHTS)
        expected = expected_losses(logits, logits, mask)
        np.testing.assert_allclose(
            found,
            [
                0.3 * expected["importance"],
                0.7 * expected["balance"],
                0.11 * expected["z"],
            ],
            rtol=1e-3,
        )


def test_losses_of_weight_zero_are_left_out():
    found, logits, _, mask = built(False, 0.0, z_loss=0.5)
    expected = expected_losses(logits, logits, mask)
    np.testing.assert_allclose(found, [0.5 * expected["z"]], rtol=1e-3)
    assert built(False, 0.0)[0] == []

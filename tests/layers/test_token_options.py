"""Options of token choice: each is the stated rule, kept and restored."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe import scoring
from tests import support
from tests.layers.test_errors import raises

X = np.random.default_rng(0).normal(size=(2, 6, 5)).astype("float32")
MASK = np.array([[True] * 4 + [False] * 2, [True] * 6])
E, F = 4, 7


def make(capacity_factor=None, top_k=2, **options):
    layer = layers.TokenChoiceMoE(
        E, top_k, capacity_factor=capacity_factor, intermediate_dim=F, **options
    )
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def arrays(layer):
    return {
        w.path.split("/", 1)[1]: ops.convert_to_numpy(w) for w in layer.weights
    }


def mlp(x, weights, place, expert):
    hidden = x @ weights[f"{place}/up/kernel"][expert]
    hidden = hidden + weights[f"{place}/up/bias"][expert]
    hidden = np.maximum(hidden, 0) @ weights[f"{place}/down/kernel"][expert]
    return hidden + weights[f"{place}/down/bias"][expert][0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("capacity_factor", [None, 4.0])
def test_the_layer_is_a_loop_over_tokens(capacity_factor):
    """All options of DeepSeek-V3 and Qwen at once, token after token."""
    layer = make(
        capacity_factor,
        activation="relu",
        scoring="sigmoid",
        normalize_gates=True,
        routed_scaling=2.5,
        router_bias=True,
        num_expert_groups=2,
        top_groups=1,
        balance_bias_rate=0.1,
        shared_intermediate_dim=3,
        shared_gate=True,
    )
    balance = np.array([0.3, -0.2, 0.1, 0.0], "float32")
    layer.balance_bias.assign(balance)
    found = support.run(lambda x: layer(x, mask=ops.convert_to_tensor(MASK)), X)
    weights = arrays(layer)
    for place in np.ndindex(X.shape[:2]):
        x = X[place]
        logits = x @ weights["router_kernel"] + weights["router_bias"]
        order = (sigmoid(logits) + balance).reshape(2, 2)
        order[np.argmin(order.sum(-1))] = -np.inf
        chosen = np.argsort(-order.reshape(-1))[:2]
        gates = sigmoid(logits)[chosen]
        gates = 2.5 * gates / gates.sum()
        expected = sigmoid(x @ weights["shared_gate"]) * mlp(
            x, weights, "shared_expert", 0
        )
        for gate, expert in zip(gates, chosen):
            expected = expected + gate * mlp(x, weights, "experts", expert)
        expected = expected * MASK[place]
        np.testing.assert_allclose(
            found[place], expected.reshape(-1), rtol=1e-4, atol=1e-4
        )


def test_masked_tokens_do_not_reach_the_shared_expert():
    layer = make(shared_intermediate_dim=3, shared_gate=True)
    poisoned = np.where(MASK[..., None], X, np.nan).astype("float32")
    found = support.run(
        lambda x: layer(x, mask=ops.convert_to_tensor(MASK)), poisoned
    )
    assert np.isfinite(found).all() and (found[~MASK] == 0).all()


@pytest.mark.parametrize("accumulated", [None, 3])
def test_the_balance_bias_moves_in_training_alone(tmp_path, accumulated):
    """By the rate towards equal loads, in `fit`; it is saved and restored.

    At each batch, where an optimizer adds up the gradients of three too.
    """
    rate = 0.25
    layer = make(top_k=1, balance_bias_rate=rate)
    model = keras.Sequential([keras.Input(X.shape[1:]), layer])
    logits = X @ arrays(layer)["router_kernel"]
    bias, scores = np.zeros(E), np.exp(logits)
    scores = scores / scores.sum(-1, keepdims=True)
    optimizer = keras.optimizers.SGD(
        0.0, gradient_accumulation_steps=accumulated
    )
    model.compile(optimizer, "mse")
    model.predict(X, verbose=0)
    np.testing.assert_array_equal(layer.balance_bias, bias)
    for _ in range(2):
        load = np.bincount((scores + bias).argmax(-1).reshape(-1), minlength=E)
        bias = bias + rate * np.sign(load.mean() - load)
        model.fit(X, X, batch_size=2, verbose=0)
        np.testing.assert_allclose(layer.balance_bias, bias)
    assert np.any(bias)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.layers[-1].balance_bias, bias)
    layer.trainable = False
    layer(X, training=True)
    np.testing.assert_allclose(layer.balance_bias, bias)


def test_scores_are_computed_once(monkeypatch):
    """The balance loss reads those that the gates are made of."""
    layer, number = make(balance_loss=0.1), []
    score = scoring.score
    monkeypatch.setattr(
        scoring, "score", lambda *args: number.append(1) or score(*args)
    )
    layer(X)
    assert len(number) == len(layer.losses) == 1


def test_capacity_in_evaluation():
    layer = make(1.0, eval_capacity_factor=0.5)
    assert layer.capacity(8, training=True) == 4
    assert layer.capacity(8) == 2


def test_jitter_reaches_the_router_in_training_alone():
    layer = make(jitter=0.5)
    plain = make()
    same = ops.convert_to_numpy(plain(X, training=True))
    found = ops.convert_to_numpy(layer(X))
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)
    other = ops.convert_to_numpy(layer(X, training=True))
    assert np.abs(other - same).max() > 1e-3


@pytest.mark.parametrize("over", ["first", "all"])
def test_the_balance_loss_counts_choices(over):
    layer = make(balance_loss=1.0, balance_over=over)
    layer(X, mask=MASK, training=True)
    logits = X @ arrays(layer)["router_kernel"]
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = []
    for gate, seen in zip(gates, MASK):
        chosen = np.argsort(-gate[seen], axis=-1)[
            :, : 1 if over == "first" else 2
        ]
        share = np.bincount(chosen.reshape(-1), minlength=E) / chosen.size
        losses.append(E * (share * gate[seen].mean(0)).sum())
    found = ops.convert_to_numpy(layer.losses[0])
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


def test_options_that_do_not_fit():
    with raises("balance_bias_rate must be a finite number, at least 0.0; rec"):
        make(balance_bias_rate=-0.1)
    with raises("top_groups must be given where num_expert_groups is; receiv"):
        make(num_expert_groups=2)
    with raises("num_expert_groups must divide the number of experts, 4; rec"):
        make(num_expert_groups=3, top_groups=1)
    with raises("eval_capacity_factor must be left at its default, None, whe"):
        make(eval_capacity_factor=1.0)
    with raises("shared_gate must be False where shared_intermediate_dim is N"):
        make(shared_gate=True)
    with raises("scoring must be one of 'softmax', 'sigmoid', 'softmax_top_k"):
        make(scoring="softmin")
    with raises("jitter must be a number from 0 up to, not including, 1; rec"):
        make(jitter=1.0)


@pytest.mark.parametrize("shape", [(0, 5), (0, 6, 5)])
def test_an_empty_batch_has_every_option(shape):
    layer = make(
        num_expert_groups=2,
        top_groups=1,
        balance_bias_rate=0.1,
        shared_intermediate_dim=3,
        shared_gate=True,
        balance_loss=0.1,
    )
    outputs = layer(np.zeros(shape, "float32"), training=True)
    assert tuple(outputs.shape) == shape
    np.testing.assert_array_equal(layer.balance_bias, np.zeros(E))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.losses[0]), 0)


def test_noise_and_jitter_share_their_random_state():
    layer = make(jitter=0.5, noise_std=1.0)
    assert len(layer.non_trainable_variables) == 1
    layer(X, training=True)


def test_experts_have_one_slot_at_least():
    layer = make(1.0, eval_capacity_factor=0.01, capacity_rounding="round")
    assert layer.capacity(X.shape[1]) == 1
    assert layer(X).shape == X.shape

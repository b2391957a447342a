"""A masked token may hold anything: NaN and infinity reach nobody."""

import keras
import numpy as np
import pytest

from keras_moe import layers
from keras_moe import ops as moe_ops
from tests import contract_table
from tests import support

MORE = {"shared_exp": {"max_scale": 8.0}}  # it needs a bound
# Layers that differ in how they route; other rows differ in their experts.
HARD = ("choice", "choice_capped", "token", "token_losses")
MIXTURES = ("mixture", "mixture_learned", "mixture_sequence")
SERVED = {
    "grouped": ("dropless",),
    "reference": ("soft", "choice", "token", "dropless", *MIXTURES),
    "gather": HARD,
    "shared_exp": ("soft",),
    "cpu": ("soft",),
    "streaming": ("soft", "mixture_learned"),
}
CASES = [
    (label, name)
    for name, labels in SERVED.items()
    for label in labels
    if support.BACKEND in moe_ops.IMPLEMENTATIONS[name].backends
]
SHAPE = (contract_table.BATCH, contract_table.TOKENS)


def masked_tokens():
    """Tokens, the same with poison in what is masked, and the mask."""
    tokens = contract_table.tokens_of(*SHAPE)
    mask = np.ones(SHAPE, bool)
    mask[0, 5:] = mask[1, ::2] = mask[3] = False
    tokens[~mask] = 0
    poisoned = tokens.copy()
    poisoned[0, 5:] = np.nan
    poisoned[1, ::2] = np.inf
    poisoned[3] = -np.inf
    return tokens, poisoned, mask


def results(layer, many, mask):
    """Output and gradients, for each of several inputs."""
    layer.build(many[0].shape)
    contract_table.randomize(layer)
    names = ["inputs"]
    names += [support.weight_name(layer, v) for v in layer.trainable_variables]
    weights = [support.numpy(v.value) for v in layer.trainable_variables]
    states = [v.value for v in layer.non_trainable_variables]
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=many[0].shape).astype("float32")

    fixed = keras.ops.convert_to_tensor(cotangent)

    def loss(tokens, *values):
        outputs, _, losses = layer.stateless_call(
            list(values),
            states,
            tokens,
            mask=keras.ops.convert_to_tensor(mask),
            training=True,
            return_losses=True,
        )
        return sum(losses, keras.ops.sum(outputs * fixed)), outputs

    gradients = with_gradients(loss, 1 + len(weights))
    for tokens in many:
        (_, outputs), grads = gradients(tokens, *weights)
        values = {"outputs": outputs, **dict(zip(names, grads))}
        yield {what: np.asarray(value) for what, value in values.items()}


def with_gradients(loss, count):
    """`loss` with the gradients of its arrays; on JAX compiled once."""
    if support.BACKEND != "jax":
        return lambda *arrays: support.value_and_grads(loss, *arrays)
    import jax

    arrays = tuple(range(count))
    return jax.jit(jax.value_and_grad(loss, arrays, has_aux=True))


@pytest.mark.parametrize("label, name", CASES)
def test_poison_in_masked_tokens_is_as_zero(label, name):
    layer = contract_table.make(
        label, implementation=name, **MORE.get(name, {})
    )
    clean, poisoned, mask = masked_tokens()
    right, came = results(layer, (clean, poisoned), mask)
    for what, value in came.items():
        assert np.isfinite(value).all(), what
        np.testing.assert_allclose(
            value, right[what], rtol=1e-5, atol=1e-6, err_msg=what
        )
    assert not came["outputs"][~mask].any()
    assert not came["inputs"][~mask].any()


@pytest.mark.parametrize("padding", ["mask", "zeros"])
@pytest.mark.parametrize("axis", ["batch", "sequence"])
def test_poison_stays_out_of_mixed_groups(axis, padding):
    """Where the last group is completed, by 5 examples or tokens too."""
    layer = layers.MixtureOfTokens(
        4, 3, intermediate_dim=8, group_axis=axis, padding=padding
    )
    layer.build((5, 8, contract_table.FEATURES))
    tokens = contract_table.tokens_of(5, 8)
    mask = np.ones((5, 8), bool)
    mask[1, 3:] = mask[4, :2] = False
    tokens[~mask] = 0
    poisoned = tokens.copy()
    poisoned[1, 3:], poisoned[4, :2] = np.nan, np.inf
    right, came = (
        contract_table.evaluate(layer, one, mask) for one in (tokens, poisoned)
    )
    assert np.isfinite(came).all()
    np.testing.assert_allclose(came, right, rtol=1e-6, atol=1e-6)

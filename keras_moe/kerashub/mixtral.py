"""Mixtral: top-k of the softmax, gates that sum to one, SwiGLU experts."""

import keras
from keras import ops

from keras_moe.kerashub import products
from keras_moe.kerashub.family import Family


def call(
    layer, implementation, hidden_states, attention_mask=None, training=False
):
    tokens, restore = products.flatten(layer, hidden_states)
    if training and layer.router_jitter_noise > 0:
        tokens = tokens * _jitter(tokens, layer.router_jitter_noise)
    logits = layer._sparse_feedforward_gate_dense(tokens)
    gate, expert = products.softmax_gates(logits, layer.top_k, True)
    bank = layer.expert_bank
    weights = (
        (bank._expert_feedforward_intermediate_dense, None),
        (bank._expert_feedforward_output_dense, None),
        (bank._expert_feedforward_gate_dense, None),
    )
    activation = products.in_float32(bank.activation)
    outputs = products.apply_experts(
        layer, implementation, tokens, gate, expert, weights, activation
    )
    if training:
        loss = MIXTRAL.balance_loss(layer, logits, attention_mask)
        layer.add_loss(layer.router_aux_loss_coef * loss)
    return restore(outputs), logits


# Of seeds, as Keras has them.
SEED_DTYPE = "uint32" if keras.backend.backend() == "jax" else "int64"


class _SeedOf(keras.random.SeedGenerator):
    """Seeds that depend on tokens, so that no state is added to a model."""

    def __init__(self, tokens):
        self.tokens = tokens

    def next(self, ordered=True):
        tokens = ops.cast(ops.stop_gradient(self.tokens), "float32")
        sums = ops.stack([ops.sum(tokens), ops.sum(ops.square(tokens))])
        bits = ops.abs(ops.view(sums, dtype="int32"))
        return ops.cast(bits, SEED_DTYPE)


def _jitter(tokens, noise):
    """Factors from 1 - noise to 1 + noise, the tokens' shape."""
    return keras.random.uniform(
        ops.shape(tokens),
        1.0 - noise,
        1.0 + noise,
        dtype=tokens.dtype,
        seed=_SeedOf(tokens),
    )


MIXTRAL = Family(
    "Mixtral",
    "mixtral.mixtral_decoder",
    "MixtralSparseMoeBlock",
    call,
    {"": ("58daae4d3830878a",), "expert_bank": ("ce897ae39c2c5ac3",)},
    "expert_bank",
    (
        "_expert_feedforward_gate_dense",
        "_expert_feedforward_intermediate_dense",
        "_expert_feedforward_output_dense",
    ),
)

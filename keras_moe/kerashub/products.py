"""Chosen experts applied to tokens, and their gates, for all adapters.

Tokens are flattened as KerasHub flattens them: (T,D), one group.
"""

from keras import ops

from keras_moe import diagnostics
from keras_moe import dropless
from keras_moe import ops as moe_ops
from keras_moe import scoring
from keras_moe.kerashub import kernels
from keras_moe.layers.experts import by_expert
from keras_moe.ops.experts import experts_mlp


def flatten(layer, hidden_states):
    """(B,N,D) -> (T,D), and the function back."""
    batch, length, _ = ops.shape(hidden_states)
    shape = (batch, length, layer.hidden_dim)
    tokens = ops.reshape(hidden_states, (-1, layer.hidden_dim))
    return tokens, lambda outputs: ops.reshape(outputs, shape)


def softmax_gates(logits, top_k: int, normalize: bool):
    """Gates and experts (T,k): the largest of the softmax of the logits."""
    gate, expert = ops.top_k(ops.softmax(logits, axis=-1), k=top_k)
    if normalize:
        gate = gate / ops.sum(gate, axis=-1, keepdims=True)
    return gate, expert


def apply_experts(
    layer, implementation, tokens, gate, expert, weights, activation
):
    """The sum of each token's experts, weighed by gates: (T,D) -> (T,D).

    Args:
        layer: under which `diagnostics.capture` has the plan; its
            `num_experts` is E.
        implementation: implementation of dispatch and the experts' products.
        tokens: (T,D).
        gate: (T,k).
        expert: integers (T,k), all different for a token.
        weights: as `experts_mlp` takes them; kernels (E,D,F) and (E,F,D),
            biases (E,F) and (E,D) or `None`, as variables; kernels may be
            a `ReplacedKernel`.
        activation: as `experts_mlp` takes it.
    """
    choice = scoring.Choice(ops.cast(expert, "int32")[None], gate[None])
    plan = dropless.drop_none(choice, layer.num_experts)
    if diagnostics.open_blocks:
        diagnostics.record(layer, plan)
    dispatcher = moe_ops.choose_dispatcher(plan, tokens.dtype, implementation)
    rows, restore = by_expert(dispatcher.dispatch(tokens[None]))
    whole = dispatcher.product is None
    weights = [
        (
            kernels.arrays(kernel, rows.dtype, whole),
            None
            if bias is None
            else kernels.arrays(bias, rows.dtype, whole)[:, None],
        )
        for kernel, bias in weights
    ]
    steps = kernels.Steps(dispatcher)
    rows = experts_mlp(rows, weights, activation, steps=steps)
    return dispatcher.combine(restore(rows))[0]


def side_by_side(activation):
    """The activation of gates and values that one kernel makes, (…,2F)."""

    def gated(both):
        gate, hidden = ops.split(both, 2, axis=-1)
        return activation(gate) * hidden

    return gated


def in_float32(activation):
    """The activation, computed in float32."""
    return lambda x: ops.cast(activation(ops.cast(x, "float32")), x.dtype)

"""The three Qwens: one kernel for gate and value, and a shared expert in two.

Qwen1.5-MoE and Qwen3-MoE say in `norm_top_k_prob` whether gates sum to one; in
Qwen3.5-MoE they do.
"""

from keras import ops

from keras_moe.kerashub import products
from keras_moe.kerashub.family import Family


def call_qwen(
    layer, implementation, hidden_states, attention_mask=None, training=None
):
    tokens, restore = products.flatten(layer, hidden_states)
    logits = layer._sparse_feedforward_gate_dense(tokens)
    activation = layer.expert_bank.activation
    outputs = _routed(
        layer, implementation, tokens, logits, layer.norm_top_k_prob, activation
    )
    shared = layer.shared_expert_dense(tokens)
    share = ops.sigmoid(layer.shared_expert_gate_dense(tokens))
    outputs = outputs + shared * share
    _add_loss(QWEN, layer, logits, attention_mask, training)
    return restore(outputs), logits


def call_qwen3(
    layer, implementation, hidden_states, attention_mask=None, training=None
):
    tokens, restore = products.flatten(layer, hidden_states)
    logits = layer._sparse_feedforward_gate_dense(tokens)
    activation = layer.expert_bank.activation
    outputs = _routed(
        layer, implementation, tokens, logits, layer.norm_top_k_prob, activation
    )
    _add_loss(QWEN3, layer, logits, attention_mask, training)
    return restore(outputs), logits


def call_qwen3_5(
    layer, implementation, hidden_states, attention_mask=None, training=None
):
    tokens, restore = products.flatten(layer, hidden_states)
    shared = layer.shared_expert(tokens)
    share = ops.sigmoid(layer._shared_expert_gate(tokens))
    logits = layer._router_gate(tokens)
    activation = products.in_float32(ops.silu)
    outputs = _routed(layer, implementation, tokens, logits, True, activation)
    outputs = outputs + share * shared
    _add_loss(QWEN3_5, layer, logits, attention_mask, training)
    return restore(outputs), logits


def _routed(layer, implementation, tokens, logits, normalize, activation):
    """What the chosen experts make of tokens, (T,D) -> (T,D)."""
    gate, expert = products.softmax_gates(logits, layer.top_k, normalize)
    bank = layer.expert_bank
    weights = (
        (bank._expert_feedforward_gate_dense, None),
        (bank._expert_feedforward_output_dense, None),
    )
    activation = products.side_by_side(activation)
    return products.apply_experts(
        layer, implementation, tokens, gate, expert, weights, activation
    )


def _add_loss(family, layer, logits, mask, training):
    if training:
        loss = family.balance_loss(layer, logits, mask)
        layer.add_loss(layer.router_aux_loss_coefficient * loss)


QWEN = Family(
    "Qwen1.5-MoE",
    "qwen_moe.qwen_moe_decoder",
    "QwenSparseMoeBlock",
    call_qwen,
    {"": ("34dcc94e58144312",), "expert_bank": ("79fe6315d01e0c32",)},
)
QWEN3 = Family(
    "Qwen3-MoE",
    "qwen3_moe.qwen3_moe_decoder",
    "Qwen3SparseMoeBlock",
    call_qwen3,
    {"": ("320e13753bddda26",), "expert_bank": ("79fe6315d01e0c32",)},
)
QWEN3_5 = Family(
    "Qwen3.5-MoE",
    "qwen3_5_moe.qwen3_5_moe_decoder",
    "Qwen3_5MoeSparseMoeBlock",
    call_qwen3_5,
    {"": ("5e7e5bee5aa62269",), "expert_bank": ("d7b285559aa7ad41",)},
)

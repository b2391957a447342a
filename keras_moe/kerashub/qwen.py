"""The three Qwens: one kernel for gate and value, and a shared expert in two.

Qwen1.5-MoE and Qwen3-MoE say in `norm_top_k_prob` whether gates sum to one; in
Qwen3.5-MoE they do.
"""

from keras import ops

from keras_moe.kerashub import products
from keras_moe.kerashub.family import Family


def call_qwen(layer, implementation, *inputs, **options):
    return _call(
        QWEN,
        layer,
        implementation,
        layer._sparse_feedforward_gate_dense,
        layer.norm_top_k_prob,
        layer.expert_bank.activation,
        (layer.shared_expert_dense, layer.shared_expert_gate_dense),
        *inputs,
        **options,
    )


def call_qwen3(layer, implementation, *inputs, **options):
    return _call(
        QWEN3,
        layer,
        implementation,
        layer._sparse_feedforward_gate_dense,
        layer.norm_top_k_prob,
        layer.expert_bank.activation,
        None,
        *inputs,
        **options,
    )


def call_qwen3_5(layer, implementation, *inputs, **options):
    return _call(
        QWEN3_5,
        layer,
        implementation,
        layer._router_gate,
        True,
        products.in_float32(ops.silu),
        (layer.shared_expert, layer._shared_expert_gate),
        *inputs,
        **options,
    )


def _call(
    family,
    layer,
    implementation,
    router,
    normalize,
    activation,
    shared,
    hidden_states,
    attention_mask=None,
    training=None,
):
    """The block of a family: its outputs and its router logits.

    Args:
        family: family of the block.
        layer: the block.
        implementation: implementation of the experts' products.
        router: the layer that makes router logits of tokens.
        normalize: whether gates sum to one.
        activation: activation of the experts' gates.
        shared: layers of the expert of all tokens and of its gate, or `None`.
        hidden_states: (B,N,D), and the block's further inputs.
        attention_mask: for the auxiliary loss.
        training: whether there is one.
    """
    tokens, restore = products.flatten(layer, hidden_states)
    logits = router(tokens)
    gate, expert = products.softmax_gates(logits, layer.top_k, normalize)
    bank = layer.expert_bank
    weights = (
        (bank._expert_feedforward_gate_dense, None),
        (bank._expert_feedforward_output_dense, None),
    )
    outputs = products.apply_experts(
        layer,
        implementation,
        tokens,
        gate,
        expert,
        weights,
        products.side_by_side(activation),
    )
    if shared is not None:
        mlp, share = shared
        outputs = outputs + mlp(tokens) * ops.sigmoid(share(tokens))
    if training:
        loss = family.balance_loss(layer, logits, attention_mask)
        layer.add_loss(layer.router_aux_loss_coefficient * loss)
    return restore(outputs), logits


KERNELS = (
    "_expert_feedforward_gate_dense",
    "_expert_feedforward_output_dense",
)
QWEN = Family(
    "Qwen1.5-MoE",
    "qwen_moe.qwen_moe_decoder",
    "QwenSparseMoeBlock",
    call_qwen,
    {"": ("34dcc94e58144312",), "expert_bank": ("79fe6315d01e0c32",)},
    "expert_bank",
    KERNELS,
)
QWEN3 = Family(
    "Qwen3-MoE",
    "qwen3_moe.qwen3_moe_decoder",
    "Qwen3SparseMoeBlock",
    call_qwen3,
    {"": ("320e13753bddda26",), "expert_bank": ("79fe6315d01e0c32",)},
    "expert_bank",
    KERNELS,
)
QWEN3_5 = Family(
    "Qwen3.5-MoE",
    "qwen3_5_moe.qwen3_5_moe_decoder",
    "Qwen3_5MoeSparseMoeBlock",
    call_qwen3_5,
    {"": ("5e7e5bee5aa62269",), "expert_bank": ("d7b285559aa7ad41",)},
    "expert_bank",
    KERNELS,
)

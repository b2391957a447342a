"""Gemma 4: a router beside the bank of experts, GELU, a scale per expert.

The decoder block calls the router and hands its gates, zero for experts not
chosen, to the bank, which does not know how many a token has.
"""

import keras
from keras import ops

from keras_moe.kerashub import products
from keras_moe.kerashub.family import Family


def call(layer, implementation, x, dispatch_weights):
    bank, top_k = layer.moe_expert_bank, layer.moe_router.num_experts_per_token
    gate, expert = ops.top_k(ops.cast(dispatch_weights, x.dtype), k=top_k)
    scale = ops.cast(ops.convert_to_tensor(bank.per_expert_scale), x.dtype)
    weights = (
        (bank.up_proj, None),
        (bank.down_proj, None),
        (bank.gate_proj, None),
    )
    return products.apply_experts(
        bank,
        implementation,
        x,
        gate * ops.take(scale, expert),
        expert,
        weights,
        products.in_float32(_gelu),
    )


def _gelu(x):
    return keras.activations.gelu(x, approximate=True)


GEMMA4 = Family(
    "Gemma 4",
    "gemma4.gemma4_decoder_block",
    "Gemma4TextDecoderBlock",
    call,
    {
        "": ("68e3083026bf23c4",),
        "moe_router": ("99435717aa6b3ef5",),
        "moe_expert_bank": ("b12a35eb90c88bb5",),
    },
    "moe_expert_bank",
    ("gate_proj", "up_proj", "down_proj"),
    block="moe_expert_bank",
    has_experts=lambda layer: layer.enable_moe_block,
)

"""gpt-oss: softmax over the chosen logits, biases, a clamped SwiGLU.

Columns of the first kernel alternate, gate and value.
"""

from keras import ops

from keras_moe.kerashub import products
from keras_moe.kerashub.family import Family


def call(layer, implementation, hidden_states):
    tokens, restore = products.flatten(layer, hidden_states)
    scores = layer.router(tokens)  # (T,E), zero for experts not chosen
    gate, expert = ops.top_k(scores, k=layer.router.top_k)
    bank = layer.experts
    weights = (
        (bank.gate_up_proj, bank.gate_up_proj_bias),
        (bank.down_proj, bank.down_proj_bias),
    )

    def activation(both):
        gate = ops.clip(both[..., ::2], -1e9, bank.limit)
        value = ops.clip(both[..., 1::2], -bank.limit, bank.limit)
        return (value + 1) * (gate * ops.sigmoid(gate * bank.alpha))

    outputs = products.apply_experts(
        layer, implementation, tokens, gate, expert, weights, activation
    )
    return restore(outputs), scores


GPT_OSS = Family(
    "gpt-oss",
    "gpt_oss.gpt_oss_decoder",
    "GptOssSparseMoeBlock",
    call,
    {
        "": ("6e142d14b297395e",),
        "experts": ("fe26ae7cb5446e82",),
        "router": ("e4fbbe39dcb2b3e8",),
    },
    "experts",
    ("gate_up_proj", "down_proj"),
)

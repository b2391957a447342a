"""Streaming on PyTorch: its own fused attention, and no other."""

import torch
from torch.nn.attention import SDPBackend
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# Every operator that keeps no (tokens x slots) array. Where none of them takes
# the arrays, PyTorch raises.
FUSED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]


def to_slots(inputs, slots, tokens, mask):
    """(G,T,D), (N,D), (G,T,D), (G,T) -> (G,N,D)."""
    queries = slots.contiguous().expand(len(tokens), *slots.shape)
    if mask is None:
        return _attend(queries, tokens, inputs, None)
    # A group of masked tokens alone attends to all, and then to nothing.
    some = mask.any(1, keepdim=True)
    outputs = _attend(queries, tokens, inputs, (mask | ~some)[:, None, None])
    return torch.where(some[:, :, None], outputs, 0.0)


def to_tokens(inputs, slots, tokens, mask):
    """(G,N,D), (N,D), (G,T,D), (G,T) -> (G,T,D)."""
    keys = slots.contiguous().expand(len(tokens), *slots.shape)
    outputs = _attend(tokens, keys, inputs, None)
    if mask is not None:
        outputs = torch.where(mask[:, :, None], outputs, 0.0)
    return outputs


def _attend(queries, keys, values, mask):
    """(G,Q,D), (G,K,D), (G,K,D), (G,1,1,K) -> (G,Q,D), in the queries' dtype.

    Logits are float32, and the operators take one dtype.
    """
    heads = (x[:, None] for x in (queries, keys, values.to(keys.dtype)))
    with sdpa_kernel(FUSED):
        outputs = scaled_dot_product_attention(
            *heads, attn_mask=mask, scale=1.0
        )
    return outputs[:, 0].to(values.dtype)

"""Streaming on PyTorch: its own fused attention, and no other."""

import torch
from torch.nn.attention import SDPBackend
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention

# Every operator that keeps no (tokens x slots) array. Where none of them takes
# the arrays, PyTorch raises.
FUSED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]


def dispatch(inputs, slots, tokens, mask):
    """(G,T,D), (N,D), (G,T,D), (G,T) -> (G,N,D)."""
    queries = slots.contiguous().expand(len(tokens), *slots.shape)
    if mask is None:
        return _attend(queries, tokens, inputs, None)
    # A group of masked tokens alone attends to all, and then to nothing.
    some = mask.any(1, keepdim=True)
    outputs = _attend(queries, tokens, inputs, (mask | ~some)[:, None, None])
    return torch.where(some[:, :, None], outputs, 0.0)


def combine(inputs, slots, tokens, mask):
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
    heads = [x[:, None] for x in (queries, keys, values.to(keys.dtype))]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        outputs = _fused(*heads, mask)
    else:
        outputs = _Attend.apply(*heads, mask)
    return outputs[:, 0].to(values.dtype)


def _fused(queries, keys, values, mask):
    arrays, features = (queries, keys, values), values.shape[-1]
    if queries.shape[-1] != features:
        # CPUs' operator takes one width. Zeros change neither product.
        width = max(queries.shape[-1], features)
        arrays = [pad(x, (0, width - x.shape[-1])) for x in arrays]
    with sdpa_kernel(FUSED):
        outputs = scaled_dot_product_attention(
            *arrays, attn_mask=mask, scale=1.0
        )
    return outputs[..., :features]


class _Attend(torch.autograd.Function):
    """Fused attention that has second derivatives, which PyTorch's lacks.

    A gradient that is to be differentiated itself comes from the formulas, and
    those hold (tokens x slots) arrays.
    """

    @staticmethod
    def forward(ctx, queries, keys, values, mask):
        arrays = (queries, keys, values)
        with torch.enable_grad():
            ctx.leaves = [
                x.detach().requires_grad_(needed)
                for x, needed in zip(arrays, ctx.needs_input_grad)
            ]
            ctx.outputs = _fused(*ctx.leaves, mask)
        ctx.mask = mask
        ctx.save_for_backward(*arrays)
        return ctx.outputs.detach()

    @staticmethod
    def backward(ctx, grad):
        outputs, arrays = ctx.outputs, ctx.leaves
        if torch.is_grad_enabled():
            queries, keys, values = arrays = ctx.saved_tensors
            logits = queries @ keys.mT
            if ctx.mask is not None:
                logits = logits.masked_fill(~ctx.mask, -torch.inf)
            outputs = logits.softmax(-1) @ values
        inputs = [x for x, n in zip(arrays, ctx.needs_input_grad) if n]
        grads = iter(
            torch.autograd.grad(
                outputs,
                inputs,
                grad,
                retain_graph=True,
                create_graph=torch.is_grad_enabled(),
            )
        )
        return *(
            next(grads) if n else None for n in ctx.needs_input_grad[:3]
        ), None

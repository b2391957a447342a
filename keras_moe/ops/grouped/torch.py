"""Grouped products on PyTorch: what runs where, and rows by index.

CPUs loop over experts (`ops/cpu/torch_grouped.py`), GPUs take
`torch.nn.functional.grouped_mm` where dtype and alignment allow; all else,
compiled programs and transforms too, goes by tiles.
"""

import functools

import torch

from keras_moe import indexing
from keras_moe.ops import selection
from keras_moe.ops.cpu import torch_grouped as loops
from keras_moe.ops.grouped import tiles
from keras_moe.ops.grouped.made import MadeKernels

ALIGNMENT = 16  # bytes that a row must be a multiple of


def prepare(plan):
    """Find the pair of each row, the row of each pair, the experts' product."""
    portable = selection.only_portable(plan.gate)
    if selection.kind_of(plan.gate) == "cpu" and not portable:
        return loops.prepare(plan.expert, plan.num_experts)
    order, bounds = plan.by_expert()
    cut = tiles.prepare(bounds, order.shape[0], plan.num_experts)
    if not portable:
        cut = functools.partial(_on_gpu, bounds, cut)
    return order, indexing.inverse(order), cut


def _on_gpu(bounds, cut, rows, kernels):
    if takes(rows, kernels):
        return grouped_mm(rows, kernels, bounds)
    return cut(rows, kernels)


def takes(rows, kernels) -> bool:
    """Whether `grouped_mm` takes these arrays, known without their values."""
    if isinstance(kernels, MadeKernels):
        return False
    features, outputs = kernels.shape[1:]
    return (
        hasattr(torch.nn.functional, "grouped_mm")
        and rows.dtype == kernels.dtype == torch.bfloat16
        and rows.shape[0] > 0
        and features * rows.element_size() % ALIGNMENT == 0
        and outputs * rows.element_size() % ALIGNMENT == 0
    )


def grouped_mm(rows, kernels, bounds):
    """PyTorch's own product, with zeros in the rows of no expert.

    It leaves these as the memory was, in the gradient of the rows too. The
    gradient that it gets is an array of its own, as `where` makes it: expanded
    ones are refused.
    """
    ends = bounds[1:].to(torch.int32)
    index = torch.arange(len(rows), device=rows.device)
    routed = (index < ends[-1])[:, None]
    outputs = torch.nn.functional.grouped_mm(
        torch.where(routed, rows, 0), kernels.contiguous(), offs=ends
    )
    return torch.where(routed, outputs, 0)


def _portable(array):
    return selection.only_portable(array) or not len(array)


def spread(tokens, order, places, choices):
    """(N,D) -> (P,D): the token of each row."""
    if _portable(tokens):
        return tokens.index_select(0, order.long() // choices)
    return _Spread.apply(tokens, order, places, choices)


def combine(rows, gate, order, places):
    """(P,D), (N,k) -> (N,D): the sum of the rows of each token, weighted."""
    if _portable(rows):
        weighted = rows * gate.reshape(-1).index_select(0, order)[:, None]
        weighted = weighted.index_select(0, places)
        return weighted.reshape(*gate.shape, rows.shape[-1]).sum(1)
    return _Combine.apply(rows, gate, order, places)


def _add(rows, places, choices, gate=None):
    """Add up the rows of each token, in one pass over the rows."""
    return torch.nn.functional.embedding_bag(
        places.reshape(-1, choices),
        rows.contiguous(),
        mode="sum",
        per_sample_weights=gate,
    )


class _Spread(torch.autograd.Function):
    """Rows come once each, so that the gradient is a sum of few, no scatter."""

    @staticmethod
    def forward(ctx, tokens, order, places, choices):
        ctx.save_for_backward(order, places)
        ctx.choices = choices
        return tokens.index_select(0, order.long() // choices)

    @staticmethod
    def backward(ctx, grad):
        order, places = ctx.saved_tensors
        if torch.is_grad_enabled():
            ones = grad.new_ones((len(order) // ctx.choices, ctx.choices))
            tokens = combine(grad, ones, order, places)
        else:
            tokens = _add(grad, places, ctx.choices)
        return tokens, None, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, gate, order, places):
        ctx.save_for_backward(rows, gate, order, places)
        return _add(rows, places, gate.shape[1], gate)

    @staticmethod
    def backward(ctx, grad):
        rows, gate, order, places = ctx.saved_tensors
        grads = spread(grad, order, places, gate.shape[1])  # (P,D)
        by_gate = torch.bmm(rows[:, None], grads[:, :, None]).reshape(-1)
        by_gate = by_gate.index_select(0, places).reshape(gate.shape)
        weights = gate.reshape(-1).index_select(0, order)[:, None]
        if torch.is_grad_enabled():
            return grads * weights, by_gate, None, None
        return grads.mul_(weights), by_gate, None, None

"""Grouped products on PyTorch: what runs where, and rows by index.

CPUs loop over experts (`ops/cpu/torch_grouped.py`), GPUs take
`torch.nn.functional.grouped_mm` where dtype and alignment allow; all else,
compiled programs and transforms too, goes by tiles.
"""

import functools

import torch

from keras_moe.ops import selection
from keras_moe.ops.cpu import torch_grouped as loops
from keras_moe.ops.grouped import tiles

ALIGNMENT = 16  # bytes that a row must be a multiple of


def prepare(bounds, rows, experts):
    """A function of (P,D) and (E,D,F) that gives (P,F)."""
    portable = selection.only_portable(bounds)
    if selection.kind_of(bounds) == "cpu" and not portable:
        return loops.prepare(bounds)
    cut = tiles.prepare(bounds, rows, experts)
    if portable:
        return cut
    return functools.partial(_on_gpu, bounds, cut)


def _on_gpu(bounds, cut, rows, kernels):
    if takes(rows, kernels):
        return grouped_mm(rows, kernels, bounds)
    return cut(rows, kernels)


def takes(rows, kernels) -> bool:
    """Whether `grouped_mm` takes these arrays, known without their values."""
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

    It leaves these as the memory was. The gradient that it gets is an array of
    its own, as `where` makes it: expanded ones are refused.
    """
    ends = bounds[1:].to(torch.int32)
    made = torch.nn.functional.grouped_mm(
        rows.contiguous(), kernels.contiguous(), offs=ends
    )
    index = torch.arange(len(rows), device=rows.device)
    return torch.where((index < ends[-1])[:, None], made, 0)


def spread(tokens, order, places, choices):
    """(N,D) -> (P,D): the token of each row."""
    if selection.only_portable(tokens):
        return tokens.index_select(0, order.long() // choices)
    return _Spread.apply(tokens, order, places, choices)


def collect(rows, order, places, choices):
    """(P,D) -> (N,D): the sum of the rows of each token."""
    if selection.only_portable(rows):
        return _sum(rows, places, choices)
    return _Collect.apply(rows, order, places, choices)


def _sum(rows, places, choices):
    rows = rows.index_select(0, places)
    return rows.reshape(-1, choices, rows.shape[-1]).sum(1)


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
        return collect(grad, order, places, ctx.choices), None, None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, order, places, choices):
        ctx.save_for_backward(order, places)
        ctx.choices = choices
        return _sum(rows, places, choices)

    @staticmethod
    def backward(ctx, grad):
        order, places = ctx.saved_tensors
        return spread(grad, order, places, ctx.choices), None, None, None

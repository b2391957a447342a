"""PyTorch's CPUs: one product for each expert that has rows.

The bounds of the experts' rows are read once. Each gradient is a loop of its
own, which writes every expert's kernel in its place: autograd would make an
array of all kernels for each expert. Gradients of gradients are the same
products again.
"""

import functools
import itertools

import torch

from keras_moe.ops.grouped.made import MadeKernels


def prepare(expert, experts):
    """Find the pair of each row, the row of each pair, the experts' product."""
    flat = expert.reshape(-1)
    order = torch.argsort(flat, stable=True)
    places = torch.arange(len(order), device=order.device)
    places = torch.empty_like(order).scatter_(0, order, places)
    counts = torch.bincount(flat, minlength=experts + 1).tolist()
    bounds = [0, *itertools.accumulate(counts[:-1])]
    return order, places, functools.partial(product, bounds=bounds)


def product(rows, kernels, bounds, turned=False):
    """Multiply the rows of each expert by its kernel, or by that turned."""
    if isinstance(kernels, MadeKernels):
        return _MadeProduct.apply(rows, kernels, bounds, turned)
    return _Product.apply(rows, kernels, bounds, turned)


def _present(bounds):
    """(expert, begin, end) of each expert that has rows."""
    begin = bounds[0]
    for expert, end in enumerate(bounds[1:]):
        if end > begin:
            yield expert, begin, end
        begin = end


def _multiply(rows, kernels, bounds, turned):
    outputs = rows.new_empty((len(rows), kernels.shape[1 if turned else 2]))
    for expert, begin, end in _present(bounds):
        kernel = kernels[expert]
        if turned:
            kernel = kernel.T
        torch.mm(rows[begin:end], kernel, out=outputs[begin:end])
    if bounds[-1] < len(rows):
        outputs[bounds[-1] :] = 0
    return outputs


def _multiply_made(rows, kernels, bounds, turned):
    outputs = rows.new_empty((len(rows), kernels.shape[1 if turned else 2]))
    multiplier = _multiplier_of_parts if kernels.parts else _multiplier_of_whole
    multiply = multiplier(rows, kernels, turned)
    for expert, begin, end in _present(bounds):
        multiply(rows[begin:end], expert, outputs[begin:end])
    outputs[bounds[-1] :] = 0
    return outputs


def _multiplier_of_whole(rows, kernels, turned):
    """A function that writes rows by an expert's kernel into `outputs`."""

    def multiply(rows, expert, outputs):
        outputs.copy_(kernels.multiply(rows, expert, turned))

    return multiply


def _multiplier_of_parts(rows, kernels, turned):
    """The same for kernels in parts.

    It uses PyTorch's operations: Keras' take longer to call than these to run.
    """
    count = kernels.parts
    _, features, columns = kernels.shape
    # Memory that each kernel would take anew comes from the system, slowly.
    kernel = rows.new_empty((features, columns // count))

    def multiply(rows, expert, outputs):
        values, scales = (array[expert] for array in kernels.arrays)
        scales = scales.to(rows.dtype)
        whole = len(scales) == 1
        for part in range(count):
            kernel.copy_(_part(values, part, count))
            scale = scales[:, part::count].contiguous()  # strides are slow
            if not whole:
                runs = (len(scale), -1, scale.shape[1])
                kernel.view(runs).mul_(scale[:, None])
            if not turned:
                made = torch.mm(rows, kernel)
                outputs[:, part::count] = made.mul_(scale) if whole else made
                continue
            own = rows[:, part::count]
            own = own * scale if whole else own
            if part:
                outputs.addmm_(own, kernel.T)
            else:
                torch.mm(own, kernel.T, out=outputs)

    return multiply


def _part(values, part, count):
    """Integers of a part: int8 whole, or the halves of pairs of int4."""
    if count == 1:
        return values
    return (values << 4 if part == 0 else values) >> 4


class _MadeProduct(torch.autograd.Function):
    """Makes each kernel anew for the gradient, rather than keep them all."""

    @staticmethod
    def forward(ctx, rows, kernels, bounds, turned):
        ctx.kernels, ctx.bounds, ctx.turned = kernels, bounds, turned
        return _multiply_made(rows, kernels, bounds, turned)

    @staticmethod
    def backward(ctx, grad):
        by_rows = product(grad, ctx.kernels, ctx.bounds, not ctx.turned)
        return by_rows, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, kernels, bounds, turned):
        ctx.save_for_backward(rows, kernels)
        ctx.bounds, ctx.turned = bounds, turned
        return _multiply(rows, kernels, bounds, turned)

    @staticmethod
    def backward(ctx, grad):
        rows, kernels = ctx.saved_tensors
        by_rows = by_kernels = None
        if ctx.needs_input_grad[0]:
            by_rows = product(grad, kernels, ctx.bounds, not ctx.turned)
        if ctx.needs_input_grad[1]:
            pair = (grad, rows) if ctx.turned else (rows, grad)
            by_kernels = _Outer.apply(*pair, ctx.bounds)
        return by_rows, by_kernels, None, None


class _Outer(torch.autograd.Function):
    """(P,D), (P,F) -> (E,D,F): the sum of outer products of each expert."""

    @staticmethod
    def forward(ctx, first, second, bounds):
        ctx.save_for_backward(first, second)
        ctx.bounds = bounds
        shape = (len(bounds) - 1, first.shape[1], second.shape[1])
        outputs = first.new_empty(shape)
        begin = bounds[0]
        for expert, end in enumerate(bounds[1:]):
            if end > begin:
                torch.mm(
                    first[begin:end].T,
                    second[begin:end],
                    out=outputs[expert],
                )
            else:
                outputs[expert].zero_()
            begin = end
        return outputs

    @staticmethod
    def backward(ctx, grad):
        first, second = ctx.saved_tensors
        by_first = by_second = None
        if ctx.needs_input_grad[0]:
            by_first = product(second, grad, ctx.bounds, True)
        if ctx.needs_input_grad[1]:
            by_second = product(first, grad, ctx.bounds)
        return by_first, by_second, None

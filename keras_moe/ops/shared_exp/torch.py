"""One exponential on PyTorch: autograd functions.

Letters: g groups, t tokens, n slots, d features. `beyond` is a Python Boolean.
"""

import torch

from keras_moe.ops.shared_exp.limits import LIMIT
from keras_moe.ops.shared_exp.limits import LOWEST
from keras_moe.ops.shared_exp.limits import MASKED


def can_branch():
    """Not while a whole program is traced: a branch would not be in it."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def is_beyond(bound):
    """Whether logits within ±bound may be too large; waits for `bound`."""
    if bound.is_meta:  # shapes alone are asked for
        return False
    return bool(bound > LIMIT)


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""
    return _Exponentials.apply(tokens, slots, mask, beyond)


class _Exponentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, slots, mask, beyond):
        values = torch.matmul(tokens, slots)
        if beyond:
            if mask is not None:
                values.masked_fill_(~mask[:, :, None], MASKED)
            over_tokens = values.logsumexp(1).clamp_(min=LOWEST)
            over_slots = values.logsumexp(2).clamp_(min=LOWEST)
        else:
            values.exp_()
            if mask is not None:
                values.masked_fill_(~mask[:, :, None], 0.0)
            over_tokens, over_slots = values.sum(1), values.sum(2)
            if mask is not None:
                # Zero where all is masked; so is what is divided by it.
                over_tokens += over_tokens == 0
                over_slots += over_slots == 0
        ctx.beyond = beyond
        ctx.save_for_backward(tokens, slots, values)
        return values, over_tokens, over_slots

    @staticmethod
    def backward(ctx, grad, by_tokens, by_slots):
        tokens, slots, values = ctx.saved_tensors
        logits = grad
        if not ctx.beyond:
            logits = grad + by_tokens[:, None]
            logits.add_(by_slots[:, :, None]).mul_(values)
        by_token = torch.matmul(logits, slots.T)
        by_slot = tokens.flatten(0, 1).T @ logits.flatten(0, 1)
        return by_token, by_slot, None, None


def to_slots(tokens, values, over_tokens, logits):
    """(G,T,D), P, c -> (G,N,D)."""
    return _Mix.apply(1, tokens, values, over_tokens, logits.beyond)


def to_tokens(slots, values, over_slots, logits):
    """(G,N,D), P, r -> (G,T,D)."""
    return _Mix.apply(2, slots, values, over_slots, logits.beyond)


class _Mix(torch.autograd.Function):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""

    @staticmethod
    def forward(ctx, axis, inputs, values, sums, beyond):
        weights = values
        if beyond:
            weights = (values - sums.unsqueeze(axis)).exp_()
        weights = weights.to(inputs.dtype)
        outputs = torch.bmm(weights.mT if axis == 1 else weights, inputs)
        if not beyond:
            outputs = (outputs / sums[:, :, None]).to(inputs.dtype)
        ctx.axis, ctx.beyond = axis, beyond
        ctx.save_for_backward(inputs, values, sums, outputs)
        return outputs

    @staticmethod
    def backward(ctx, grad):
        inputs, values, sums, outputs = ctx.saved_tensors
        weights = values
        if ctx.beyond:
            weights = (values - sums.unsqueeze(ctx.axis)).exp_()
        else:
            grad = grad / sums[:, :, None]
        shared = (outputs.to(sums.dtype) * grad).sum(-1)
        grad = grad.to(inputs.dtype)
        # In the layout of P: the sum of the two steps' shares is quick then.
        pair = (inputs, grad) if ctx.axis == 1 else (grad, inputs)
        by_values = torch.bmm(pair[0], pair[1].mT).to(values.dtype)
        by_sums = -shared
        if ctx.beyond:
            # All of the softmax's gradient; nothing is left to the sums.
            by_values -= shared.unsqueeze(ctx.axis)
            by_values *= weights
            by_sums = torch.zeros_like(sums)
        weights = weights.to(inputs.dtype)
        back = weights if ctx.axis == 1 else weights.mT
        return None, torch.bmm(back, grad), by_values, by_sums, None

"""PyTorch's CPUs: autograd functions, and a branch on the value of `scale`.

Letters: g groups, t tokens, n slots, d features. `beyond` is a Python Boolean,
or `None` where the logits are known not to be.
"""

import types

import torch

from keras_moe.ops import cpu


def is_beyond(scale, limit):
    """Whether logits may be too large for one exponential; reads `scale`."""
    return bool(scale.detach().abs() > limit)


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P or L (G,T,N), its sums (G,N) and (G,T)."""
    return _Exponentials.apply(tokens, slots, mask, beyond)


class _Exponentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, slots, mask, beyond):
        values = torch.matmul(tokens, slots)
        if beyond:
            if mask is not None:
                values.masked_fill_(~mask[:, :, None], cpu.MASKED)
            over_tokens = values.logsumexp(1).clamp_(min=cpu.LOWEST)
            over_slots = values.logsumexp(2).clamp_(min=cpu.LOWEST)
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
        ctx.save_for_backward(tokens, slots, values, over_tokens, over_slots)
        return values, over_tokens, over_slots

    @staticmethod
    def backward(ctx, grad, by_tokens, by_slots):
        tokens, slots, values, over_tokens, over_slots = ctx.saved_tensors
        by_tokens, by_slots = by_tokens[:, None], by_slots[:, :, None]
        if ctx.beyond:
            logits = grad + (values - over_tokens[:, None]).exp() * by_tokens
            logits = logits + (values - over_slots[..., None]).exp() * by_slots
        else:
            logits = grad + by_tokens
            logits.add_(by_slots).mul_(values)
        by_token = torch.matmul(logits, slots.T)
        by_slot = tokens.flatten(0, 1).T @ logits.flatten(0, 1)
        return by_token, by_slot, None, None


def to_slots(tokens, values, over_tokens, beyond):
    """(G,T,D), P or L, c -> (G,N,D)."""
    return _Mix.apply(1, tokens, values, over_tokens, beyond)


def to_tokens(slots, values, over_slots, beyond):
    """(G,N,D), P or L, r -> (G,T,D)."""
    return _Mix.apply(2, slots, values, over_slots, beyond)


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
            weights = (values - sums.unsqueeze(ctx.axis)).exp()
        else:
            grad = grad / sums[:, :, None]
        by_sums = -(outputs.to(sums.dtype) * grad).sum(-1)
        grad = grad.to(inputs.dtype)
        # In the layout of P: the sum of the two steps' shares is quick then.
        pair = (inputs, grad) if ctx.axis == 1 else (grad, inputs)
        by_values = torch.bmm(pair[0], pair[1].mT).to(values.dtype)
        if ctx.beyond:
            by_values = by_values * weights
        weights = weights.to(inputs.dtype)
        back = weights if ctx.axis == 1 else weights.mT
        return None, torch.bmm(back, grad), by_values, by_sums, None


# === Loops ===


def repeat(goes_on, step, state, rounds):
    """Take at most so many steps, while `goes_on` of the state; reads it."""
    for _ in range(rounds):
        if not goes_on(*state):
            break
        state = step(*state)
    return state


# === By name ===

_FUNCTIONS = types.SimpleNamespace(
    is_beyond=is_beyond,
    exponentials=exponentials,
    to_slots=to_slots,
    to_tokens=to_tokens,
    product=None,  # no quicker than the plain one
)


def functions(tokens):
    """The functions above."""
    return _FUNCTIONS

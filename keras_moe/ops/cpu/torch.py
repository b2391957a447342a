"""PyTorch's CPUs: autograd functions, and a branch on the value of `scale`.

Letters: g groups, t tokens, n slots, d features. `exceeds_limit` is a Python
Boolean, or `None` where no logit does.
"""

import types

import torch

from keras_moe.ops import cpu


def exceeds(scale, limit):
    """Read whether logits may be too large for one exponential."""
    return bool(scale.detach().abs() > limit)


def exponentials(tokens, slots, mask, exceeds_limit):
    """(G,T,D), (D,N), (G,T) -> P or L (G,T,N), its sums (G,N) and (G,T)."""
    return _Exponentials.apply(tokens, slots, mask, exceeds_limit)


class _Exponentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, slots, mask, exceeds_limit):
        values = torch.matmul(tokens, slots)
        if exceeds_limit:
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
        ctx.exceeds_limit = exceeds_limit
        ctx.save_for_backward(tokens, slots, values, over_tokens, over_slots)
        return values, over_tokens, over_slots

    @staticmethod
    def backward(ctx, grad, by_tokens, by_slots):
        tokens, slots, values, over_tokens, over_slots = ctx.saved_tensors
        by_tokens, by_slots = by_tokens[:, None], by_slots[:, :, None]
        if ctx.exceeds_limit:
            logits = grad + (values - over_tokens[:, None]).exp() * by_tokens
            logits = logits + (values - over_slots[..., None]).exp() * by_slots
        else:
            logits = grad + by_tokens
            logits.add_(by_slots).mul_(values)
        by_token = torch.matmul(logits, slots.T)
        by_slot = tokens.flatten(0, 1).T @ logits.flatten(0, 1)
        return by_token, by_slot, None, None


def dispatch(tokens, values, over_tokens, exceeds_limit):
    """(G,T,D), P or L, c -> (G,N,D)."""
    return _Mix.apply(1, tokens, values, over_tokens, exceeds_limit)


def combine(slots, values, over_slots, exceeds_limit):
    """(G,N,D), P or L, r -> (G,T,D)."""
    return _Mix.apply(2, slots, values, over_slots, exceeds_limit)


class _Mix(torch.autograd.Function):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""

    @staticmethod
    def forward(ctx, axis, inputs, values, sums, exceeds_limit):
        weights = values
        if exceeds_limit:
            weights = (values - sums.unsqueeze(axis)).exp_()
        weights = weights.to(inputs.dtype)
        outputs = torch.bmm(weights.mT if axis == 1 else weights, inputs)
        if not exceeds_limit:
            outputs = (outputs / sums[:, :, None]).to(inputs.dtype)
        ctx.axis, ctx.exceeds_limit = axis, exceeds_limit
        ctx.save_for_backward(inputs, values, sums, outputs)
        return outputs

    @staticmethod
    def backward(ctx, grad):
        inputs, values, sums, outputs = ctx.saved_tensors
        weights = values
        if ctx.exceeds_limit:
            weights = (values - sums.unsqueeze(ctx.axis)).exp()
        else:
            grad = grad / sums[:, :, None]
        by_sums = -(outputs.to(sums.dtype) * grad).sum(-1)
        grad = grad.to(inputs.dtype)
        # In the layout of P: the sum of the two steps' shares is quick then.
        pair = (inputs, grad) if ctx.axis == 1 else (grad, inputs)
        by_values = torch.bmm(pair[0], pair[1].mT).to(values.dtype)
        if ctx.exceeds_limit:
            by_values = by_values * weights
        weights = weights.to(inputs.dtype)
        back = weights if ctx.axis == 1 else weights.mT
        return None, torch.bmm(back, grad), by_values, by_sums, None


# === Loops ===


def repeat(unfinished, step, state, rounds):
    """Take at most so many steps, while `unfinished` of the state; reads it."""
    for _ in range(rounds):
        if not unfinished(*state):
            break
        state = step(*state)
    return state


# === By name ===

_FUNCTIONS = types.SimpleNamespace(
    exceeds=exceeds,
    exponentials=exponentials,
    dispatch=dispatch,
    combine=combine,
)


def functions(tokens):
    """Return the functions above."""
    return _FUNCTIONS

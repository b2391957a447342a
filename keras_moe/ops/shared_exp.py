"""Soft plans with one exponential for both softmaxes.

Where no logit L (T,N), N = E·S, exceeds ±40, exp(L) is finite and so are its
sums, and no softmax needs its largest logit first:

    P = exp(L),   c = sum over t of P,   r = sum over n of P
    slots = (Pᵀ · tokens) / c,   tokens = (P · slots) / r

That must be known without reading a value: `SoftMoE(max_scale=40)` bounds its
logits, which are products of unit vectors times `scale`.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.ops.reference import FlatDispatcher
from keras_moe.scalars import keep

LIMIT = 40.0  # exp(±40), its sums and their gradients are far inside float32


def prepare(plan, dtype):
    """Compute the exponentials of a plan and their sums."""
    features, *slot_shape = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, -1))
    values = ops.exp(ops.einsum("gtd,dn->gtn", plan.tokens, flat))
    if plan.mask is not None:
        values = keep(plan.mask[:, :, None], values)
    sums = (_not_zero(ops.sum(values, axis=axis)) for axis in (1, 2))
    return SharedExpDispatcher(values, *sums, slot_shape)


def _not_zero(sums):
    # Zero only where all is masked; then so is what is divided by it.
    return sums + ops.cast(sums == 0, sums.dtype)


@dataclasses.dataclass(frozen=True)
class SharedExpDispatcher(FlatDispatcher):
    """P (G,T,N), its sums c (G,N) and r (G,T), and (E,S)."""

    values: Any
    over_tokens: Any
    over_slots: Any
    slot_shape: Any

    def _dispatch(self, tokens):
        return self._mix("gtn,gtd->gnd", tokens, self.over_tokens)

    def _combine(self, slots):
        return self._mix("gtn,gnd->gtd", slots, self.over_slots)

    def _mix(self, equation, inputs, sums):
        values = ops.cast(self.values, inputs.dtype)
        outputs = ops.einsum(equation, values, inputs)
        outputs = ops.cast(outputs, sums.dtype) / sums[:, :, None]
        return ops.cast(outputs, inputs.dtype)

"""Soft plans with one exponential for both softmaxes.

Where no logit L (T,N), N = E·S, is beyond ±40, exp(L) is finite and so are its
sums, and no softmax needs its largest logit first:

    P = exp(L),   c = sum over t of P,   r = sum over n of P
    slots = (Pᵀ · tokens) / c,   tokens = (P · slots) / r

That must be known without reading a value: `SoftMoE(max_scale=40)` bounds its
logits, which are products of unit vectors times `scale`.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.ops.reference import Dispatcher
from keras_moe.scalars import keep

LIMIT = 40.0  # exp(±40), its sums and their gradients are far inside float32


def prepare(plan, dtype):
    """Compute the exponentials of a plan and their sums."""
    features, *seats = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, -1))
    values = ops.exp(ops.einsum("gtd,dn->gtn", plan.tokens, flat))
    if plan.mask is not None:
        values = keep(plan.mask[:, :, None], values)
    sums = (_not_zero(ops.sum(values, axis=axis)) for axis in (1, 2))
    return SharedExpDispatcher(values, *sums, seats)


def _not_zero(sums):
    # Zero only where all is masked; then so is what is divided by it.
    return sums + ops.cast(sums == 0, sums.dtype)


@dataclasses.dataclass(frozen=True)
class SharedExpDispatcher(Dispatcher):
    """P (G,T,N), its sums c (G,N) and r (G,T), and (E,S)."""

    values: Any
    over_tokens: Any
    over_slots: Any
    seats: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        slots = self._mix("gtn,gtd->gnd", tokens, self.over_tokens)
        return ops.reshape(slots, (-1, *self.seats, tokens.shape[-1]))

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        experts, seats = self.seats
        slots = ops.reshape(slots, (-1, experts * seats, slots.shape[-1]))
        return self._mix("gtn,gnd->gtd", slots, self.over_slots)

    def _mix(self, equation, inputs, sums):
        values = ops.cast(self.values, inputs.dtype)
        mixed = ops.einsum(equation, values, inputs)
        mixed = ops.cast(mixed, sums.dtype) / sums[:, :, None]
        return ops.cast(mixed, inputs.dtype)

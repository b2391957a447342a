"""Soft plans with one exponential for both softmaxes.

Where no logit L (T,N), N = E·S, is beyond ±40, exp(L) is finite and so are its
sums, and no softmax needs its largest logit first:

    P = exp(L),   c = sum over t of P,   r = sum over n of P
    slots = (Pᵀ · tokens) / c,   tokens = (P · slots) / r

Soft MoE's logits are products of unit vectors times `scale`, hence bounded by
|scale|. Whether that is at most 40 is decided inside the compiled program; if
not, the weights are two softmaxes. Mostly P is the logits themselves then, c
and r their logsumexp, and the weights exp(P - c) and exp(P - r); with JAX on
accelerators each step computes its weights anew. Gradients are written by hand:
of all arrays (T,N), only P is kept for them.

Statically, a plan with noise, with temperatures, without normalised factors,
and float16, which cannot hold the sums, take the reference's formulas; so do,
on PyTorch, programs that are exported or compiled as a whole.
"""

import importlib
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_moe.ops import reference
from keras_moe.ops.shared_exp.limits import LIMIT

# The running backend's functions; nothing of the others is imported.
room = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def serves(plan, dtype) -> bool:
    """Whether one exponential may do, as far as is known statically."""
    number = isinstance(plan.bound, (int, float))
    return (
        plan.bound is not None
        and (plan.bound <= LIMIT if number else room.can_branch())
        and plan.noise is None
        and isinstance(plan.merge_temperature, (int, float))
        and plan.merge_temperature == 1
        and plan.emit_temperature is None
        and plan.combine_over == "slots"
        and not plan.discrete
        and keras.backend.standardize_dtype(dtype) != "float16"
    )


def prepare(plan, dtype):
    """Compute the exponentials of a plan, or its weights."""
    if not serves(plan, dtype):
        return reference.prepare(plan, dtype)
    features, *seats = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, -1))
    known = isinstance(plan.bound, (int, float))
    beyond = None if known else room.is_beyond(plan.bound)
    logits = Logits(plan.tokens, flat, plan.mask, beyond)
    return Exponentials(*room.exponentials(*logits), logits, seats)


class Logits(NamedTuple):
    """Factors (G,T,D) and (D,N) of L, a mask (G,T), and if L is beyond ±40."""

    tokens: Any
    slots: Any
    mask: Any
    beyond: Any


class Exponentials(NamedTuple):
    """P (G,T,N), its sums c (G,N) and r (G,T), and what they are made of."""

    values: Any
    over_tokens: Any
    over_slots: Any
    logits: Any
    seats: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D)."""
        slots = room.to_slots(
            tokens, self.values, self.over_tokens, self.logits
        )
        return ops.reshape(slots, (-1, *self.seats, tokens.shape[-1]))

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D)."""
        experts, seats = self.seats
        flat = (-1, experts * seats, slots.shape[-1])
        return room.to_tokens(
            ops.reshape(slots, flat), self.values, self.over_slots, self.logits
        )

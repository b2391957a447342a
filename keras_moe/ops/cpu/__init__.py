"""Soft plans and experts tuned for CPUs: one exponential, decided by value.

Where |scale| is at most 40, P = exp(L) serves both softmaxes (shared_exp.py);
beyond, there are two, exp(L - c) and exp(L - r) with logsumexps c and r. Here
the program reads `scale` and takes one or the other, and gradients are written
by hand: of all arrays (T,N) only P, or L, is kept for them.

Records: tests/benchmarks/results/soft_moe_layers-*.csv. TensorFlow has
no module here.
"""

import dataclasses
import importlib
from typing import Any

import keras
from keras import ops

from keras_moe.ops.logsumexp import LOWEST as LOWEST
from keras_moe.ops.reference import Dispatcher
from keras_moe.ops.shared_exp import LIMIT
from keras_moe.scalars import MASKED as MASKED

BACKENDS = ("jax", "torch")


def prepare(plan, dtype):
    """Compute the exponentials of a plan, or its logits, and their sums."""
    backend = keras.backend.backend()
    module = importlib.import_module(f"{__name__}.{backend}")
    tuned = module.functions(plan.tokens)
    features, *seats = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, -1))
    beyond = None  # known not to be
    if plan.bound is None or plan.bound > LIMIT:
        beyond = tuned.is_beyond(plan.scale, LIMIT)
    made = tuned.exponentials(plan.tokens, flat, plan.mask, beyond)
    return CpuDispatcher(*made, beyond, seats, tuned, tuned.product)


@dataclasses.dataclass(frozen=True)
class CpuDispatcher(Dispatcher):
    """P or L (G,T,N), sums or logsumexps c (G,N) and r (G,T), which, (E,S)."""

    values: Any
    over_tokens: Any
    over_slots: Any
    beyond: Any
    seats: Any
    tuned: Any
    product: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        slots = self.tuned.to_slots(
            tokens, self.values, self.over_tokens, self.beyond
        )
        return ops.reshape(slots, (-1, *self.seats, tokens.shape[-1]))

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        experts, seats = self.seats
        slots = ops.reshape(slots, (-1, experts * seats, slots.shape[-1]))
        return self.tuned.to_tokens(
            slots, self.values, self.over_slots, self.beyond
        )

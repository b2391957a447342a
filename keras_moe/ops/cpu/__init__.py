"""Soft plans and experts tuned for CPUs: one exponential, decided by value.

Where |scale| is at most 40, P = exp(L) serves both softmaxes (shared_exp.py);
above, there are two, exp(L - c) and exp(L - r) with logsumexps c and r. Here
the program reads `scale` and takes one or the other, and gradients are written
by hand: of all arrays (T,N) only P, or L, is kept for them.

Records: tests/benchmarks/results/soft_moe_layers-*.csv.
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


def prepare(plan, dtype):
    """Compute the exponentials of a plan, or its logits, and their sums."""
    backend = keras.backend.backend()
    module = importlib.import_module(f"{__name__}.{backend}")
    tuned = module.functions(plan.tokens)
    features, *slot_shape = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, -1))
    exceeds_limit = None  # statically false
    if plan.bound is None or plan.bound > LIMIT:
        exceeds_limit = tuned.exceeds(plan.scale, LIMIT)
    arrays = tuned.exponentials(plan.tokens, flat, plan.mask, exceeds_limit)
    # A backend names those steps of the experts that it is quicker at.
    product = getattr(tuned, "product", None)
    activate = getattr(tuned, "activate", None)
    return CpuDispatcher(
        *arrays, exceeds_limit, slot_shape, tuned, product, activate
    )


@dataclasses.dataclass(frozen=True)
class CpuDispatcher(Dispatcher):
    """P or L (G,T,N), sums or logsumexps c (G,N) and r (G,T), which, (E,S)."""

    values: Any
    over_tokens: Any
    over_slots: Any
    exceeds_limit: Any
    slot_shape: Any
    tuned: Any
    product: Any
    activate: Any

    # Not `FlatDispatcher`, whose file each call would pass through.
    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        slots = self.tuned.dispatch(
            tokens, self.values, self.over_tokens, self.exceeds_limit
        )
        return ops.reshape(slots, (-1, *self.slot_shape, tokens.shape[-1]))

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        experts, capacity = self.slot_shape
        slots = ops.reshape(slots, (-1, experts * capacity, slots.shape[-1]))
        return self.tuned.combine(
            slots, self.values, self.over_slots, self.exceeds_limit
        )

"""The definition of dispatch and combine: one product each, for any plan."""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.plans import GroupedPlan


def product(rows, kernels):
    """The rows of each expert by its kernel: (E,N,D) · (E,D,F) -> (E,N,F)."""
    return rows @ kernels  # `ops.matmul` may round float64 to float32


def shift(rows, biases):
    """Add the bias of its expert to each row: (E,N,F) + (E,1,F)."""
    # Not `ops.add`, which on TensorFlow takes (E,1,1) for the bias of the
    # second axis where that is as long.
    return rows + biases


class Dispatcher:
    """What implementations have in common: how experts multiply."""

    product = staticmethod(product)
    shift = staticmethod(shift)


def prepare(plan, dtype):
    """Write out the weights of a plan."""
    if isinstance(plan, GroupedPlan):
        return EveryExpert(plan.chosen(), plan.gates())
    return DenseDispatcher(*plan.weights())


@dataclasses.dataclass(frozen=True)
class DenseDispatcher(Dispatcher):
    """Two arrays (G,T,E,S): who reads how much of whom."""

    to_slots: Any
    to_tokens: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        weights = ops.cast(self.to_slots, tokens.dtype)
        return ops.einsum("gtes,gtd->gesd", weights, tokens)

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        weights = ops.cast(self.to_tokens, slots.dtype)
        return ops.einsum("gtes,gesd->gtd", weights, slots)


@dataclasses.dataclass(frozen=True)
class EveryExpert(Dispatcher):
    """Two arrays (G,T,E): whether, and how much, a token has an expert.

    Slot t of an expert is for token t, so the products with the plan's arrays
    (G,T,E,S) are those with these.
    """

    chosen: Any
    gates: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D), S = T: each expert's tokens, or zeros."""
        chosen = ops.cast(self.chosen, tokens.dtype)
        return ops.einsum("gte,gtd->getd", chosen, tokens)

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads its own slots."""
        gates = ops.cast(self.gates, slots.dtype)
        return ops.einsum("gte,getd->gtd", gates, slots)

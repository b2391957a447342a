"""The definition of dispatch and combine: one product each, for any plan."""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.plans import GroupedPlan


class Dispatcher:
    """Base of dispatchers: products of experts' kernels.

    `product(rows, kernels)`, (E,N,D) · (E,D,F) -> (E,N,F), and `shift(rows,
    biases)`, (E,N,F) + (E,1,F), are `None` where they are the plain ones.
    """

    product = None
    shift = None


PLAIN = Dispatcher()


def prepare(plan, dtype):
    """Write out the weights of a plan."""
    if isinstance(plan, GroupedPlan):
        return EveryExpert(plan.chosen(), plan.gates())
    return DenseDispatcher(*plan.weights())


@dataclasses.dataclass(frozen=True)
class DenseDispatcher(Dispatcher):
    """Two arrays (G,T,E,S): how much of a token a slot reads, and back."""

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

"""Dispatch and combine by definition: one product each, for any plan."""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.plans import GroupedPlan


class Dispatcher:
    """Base of the dispatchers: how experts multiply.

    `product(rows, kernels)`, (E,N,D) · (E,D,F) -> (E,N,F), `shift(rows,
    biases)`, (E,N,F) + (E,1,F), and `activate(activation, rows)` are `None`
    where they are the plain ones.
    """

    product = None
    shift = None
    activate = None


PLAIN = Dispatcher()


class FlatDispatcher(Dispatcher):
    """Base of the dispatchers whose slots share one axis, N = E·S.

    Subclasses have `slot_shape`, (E,S), and two methods: `_dispatch`, (G,T,D)
    -> (G,N,D), and `_combine`, (G,N,D) -> (G,T,D).
    """

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        slots = self._dispatch(tokens)
        return ops.reshape(slots, (-1, *self.slot_shape, tokens.shape[-1]))

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        experts, capacity = self.slot_shape
        flat = (-1, experts * capacity, slots.shape[-1])
        return self._combine(ops.reshape(slots, flat))


def prepare(plan, dtype):
    """Write out the weights of a plan."""
    if isinstance(plan, GroupedPlan):
        return EveryExpert(plan.chosen(), plan.gates())
    return DenseDispatcher(*plan.weights())


@dataclasses.dataclass(frozen=True)
class DenseDispatcher(Dispatcher):
    """Two arrays (G,T,E,S): how much of a token a slot reads, and back."""

    dispatch_weights: Any
    combine_weights: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): every slot reads the tokens it weighs."""
        weights = ops.cast(self.dispatch_weights, tokens.dtype)
        return ops.einsum("gtes,gtd->gesd", weights, tokens)

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads the slots it weighs."""
        weights = ops.cast(self.combine_weights, slots.dtype)
        return ops.einsum("gtes,gesd->gtd", weights, slots)


@dataclasses.dataclass(frozen=True)
class EveryExpert(Dispatcher):
    """Two arrays (G,T,E): whether, and how much, a token has an expert.

    Slot t of an expert is for token t, so the products with the plan's arrays
    (G,T,E,S) are those with these.
    """

    choice: Any
    gates: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D), S = T: each expert's tokens, or zeros."""
        choice = ops.cast(self.choice, tokens.dtype)
        return ops.einsum("gte,gtd->getd", choice, tokens)

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): every token reads its own slots."""
        gates = ops.cast(self.gates, slots.dtype)
        return ops.einsum("gte,getd->gtd", gates, slots)

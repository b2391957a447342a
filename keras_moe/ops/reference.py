"""The definition of dispatch and combine: one product each, for any plan."""

import dataclasses
from typing import Any

from keras import ops


class Dispatcher:
    """What implementations have in common: how experts multiply.

    `product(rows, kernels)`, (E,N,D) · (E,D,F) -> (E,N,F), is `None` where it
    is the plain product.
    """

    product = None


def prepare(plan, dtype):
    """Write out the weights of a plan."""
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

"""Hard plans by index: no (tokens x seats) array, on every backend."""

import dataclasses
from typing import Any

from keras import ops

from keras_moe import indexing
from keras_moe.ops.reference import Dispatcher


def prepare(plan, dtype):
    """Write the capacity slots of all experts of a group in one row."""
    _, experts, seats = ops.shape(plan.token_index)
    index = ops.reshape(plan.token_index, (-1, experts * seats))
    return GatherDispatcher(index, plan)


@dataclasses.dataclass(frozen=True)
class GatherDispatcher(Dispatcher):
    """The token of each slot, `index` (G,E·S), counted inside its group."""

    index: Any
    plan: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): copy each slot's token, zeros if empty."""
        gate = self.plan.combine_weights
        _, experts, seats = ops.shape(gate)
        rows = indexing.take(tokens, self.index)
        slots = ops.reshape(rows, (-1, experts, seats, tokens.shape[-1]))
        return slots * ops.cast(gate != 0, tokens.dtype)[..., None]

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): add up, weighed, the slots of each token."""
        _, experts, seats, features = ops.shape(slots)
        weighed = (
            slots * ops.cast(self.plan.combine_weights, slots.dtype)[..., None]
        )
        weighed = ops.reshape(weighed, (-1, experts * seats, features))
        return indexing.add(weighed, self.index, self.plan.num_tokens)

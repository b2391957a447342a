"""Hard plans by index: no (tokens x slots) array, on every backend."""

import dataclasses
from typing import Any

from keras import ops

from keras_moe import indexing
from keras_moe.ops.reference import Dispatcher


def prepare(plan, dtype):
    """Write the capacity slots of all experts of a group in one row."""
    _, experts, capacity = ops.shape(plan.token_index)
    index = ops.reshape(plan.token_index, (-1, experts * capacity))
    return GatherDispatcher(index, plan)


@dataclasses.dataclass(frozen=True)
class GatherDispatcher(Dispatcher):
    """Dispatcher with the token of each slot, `index` (G,E·S), in its group."""

    index: Any
    plan: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): copy each slot's token, zeros if empty."""
        gate = self.plan.combine_weights
        _, experts, capacity = ops.shape(gate)
        rows = indexing.take(tokens, self.index)
        slots = ops.reshape(rows, (-1, experts, capacity, tokens.shape[-1]))
        return slots * ops.cast(gate != 0, tokens.dtype)[..., None]

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): add up, weighted, the slots of each token."""
        _, experts, capacity, features = ops.shape(slots)
        weighted = (
            slots * ops.cast(self.plan.combine_weights, slots.dtype)[..., None]
        )
        weighted = ops.reshape(weighted, (-1, experts * capacity, features))
        return indexing.add(weighted, self.index, self.plan.num_tokens)

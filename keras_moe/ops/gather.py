"""Hard plans by index: no (tokens x seats) array, on every backend."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_moe.ops.reference import Dispatcher


def prepare(plan, dtype):
    """Number the tokens of all groups through."""
    groups = ops.arange(0, ops.shape(plan.token)[0], dtype="int32")
    index = plan.token + (groups * plan.num_tokens)[:, None, None]
    return GatherDispatcher(ops.reshape(index, (-1,)), plan)


@dataclasses.dataclass(frozen=True)
class GatherDispatcher(Dispatcher):
    """Who sits where: `index` (G·E·S,) into the (G·T) tokens of all groups."""

    index: Any
    plan: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (G,E,S,D): copy each seat's token, zeros if empty."""
        gate = self.plan.gate
        _, experts, seats = gate.shape
        seats = ops.shape(gate)[2] if seats is None else seats
        features = tokens.shape[-1]
        rows = ops.reshape(tokens, (-1, features))
        rows = ops.take(rows, self.index, axis=0)
        slots = ops.reshape(rows, (-1, experts, seats, features))
        return slots * ops.cast(gate != 0, tokens.dtype)[..., None]

    def combine(self, slots):
        """(G,E,S,D) -> (G,T,D): add up, weighed, what sits of each token."""
        features, length = slots.shape[-1], self.plan.num_tokens
        groups = ops.shape(slots)[0]
        weighed = slots * ops.cast(self.plan.gate, slots.dtype)[..., None]
        weighed = ops.reshape(weighed, (-1, features))
        tokens = _sum_by_index(weighed, self.index, groups * length)
        return ops.reshape(tokens, (-1, length, features))


def _sum_by_index(rows, index, total):
    """(N,D) rows -> (total,D), each row added where its index says."""
    if keras.backend.backend() == "torch":
        # Keras' segment_sum goes through float32 there, float64 too. Not
        # index_add, which is wrong in ONNX where an index comes twice.
        zeros = rows.new_zeros((total, rows.shape[-1]))
        index = ops.cast(index, "int64")[:, None].expand(rows.shape)
        return zeros.scatter_add(0, index, rows)
    return ops.segment_sum(rows, index, num_segments=total)

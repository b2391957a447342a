"""Hard plans by index: no (tokens x seats) array, on every backend."""

import keras
from keras import ops


def dispatch(tokens, plan):
    """(G,T,D) -> (G,E,S,D): copy the token of each seat, zeros if empty."""
    _, experts, seats = plan.token.shape
    seats = ops.shape(plan.token)[2] if seats is None else seats
    features = tokens.shape[-1]
    index = ops.reshape(_flat_index(plan), (-1,))
    rows = ops.take(ops.reshape(tokens, (-1, features)), index, axis=0)
    slots = ops.reshape(rows, (-1, experts, seats, features))
    return slots * ops.cast(plan.gate != 0, tokens.dtype)[..., None]


def combine(slots, plan):
    """(G,E,S,D) -> (G,T,D): add up, weighed, what sits of each token."""
    features = slots.shape[-1]
    groups = ops.shape(slots)[0]
    weighed = slots * ops.cast(plan.gate, slots.dtype)[..., None]
    tokens = _sum_by_index(
        ops.reshape(weighed, (-1, features)),
        ops.reshape(_flat_index(plan), (-1,)),
        groups * plan.num_tokens,
    )
    return ops.reshape(tokens, (-1, plan.num_tokens, features))


def _sum_by_index(rows, index, total):
    """(N,D) rows -> (total,D), each row added where its index says."""
    if keras.backend.backend() == "torch":
        # Keras' segment_sum goes through float32 there, float64 too. Not
        # index_add, which is wrong in ONNX where an index comes twice.
        zeros = rows.new_zeros((total, rows.shape[-1]))
        index = ops.cast(index, "int64")[:, None].expand(rows.shape)
        return zeros.scatter_add(0, index, rows)
    return ops.segment_sum(rows, index, num_segments=total)


def _flat_index(plan):
    """(G,E,S) positions in the (G·T) tokens of all groups."""
    groups = ops.arange(0, ops.shape(plan.token)[0], dtype="int32")
    return plan.token + (groups * plan.num_tokens)[:, None, None]

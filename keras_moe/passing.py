"""Tokens of a sequence that pass a layer: Mixture of Depths' choices.

Axes: B sequences, T tokens of a sequence, k tokens that pass.
"""

from keras import ops

from keras_moe import indexing
from keras_moe import routing
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep


def number_of(scores, share: float):
    """k, the share of T tokens, rounded, halves to even, and at least 1.

    Args:
        scores: (B,T).
        share: above 0, at most 1.
    """
    length = ops.shape(scores)[1]
    return routing.expert_capacity(length, 1, share, rounding="round")


def largest(scores, share: float, mask=None):
    """Rows (B,k), int32, of the largest scores, in the order of the sequence.

    Args:
        scores: (B,T). No gradient passes.
        share: above 0, at most 1.
        mask: `None` or Boolean (B,T). `False` tokens come only where too few
            others are left.
    """
    if mask is not None:
        scores = keep(mask, scores, MASKED)
    number = number_of(scores, share)
    rows = routing.descending(ops.stop_gradient(scores))[:, :number]
    return ops.sort(ops.cast(rows, "int32"), axis=-1)


def first(choice, share: float):
    """Rows (B,k), int32, of the first chosen tokens, and then of others.

    Args:
        choice: Boolean (B,T).
        share: above 0, at most 1.
    """
    length = ops.shape(choice)[1]
    order = ops.arange(0, length, dtype="int32")
    order = order + ops.cast(ops.logical_not(choice), "int32") * length
    number = number_of(choice, share)
    return ops.cast(routing.ascending(order)[:, :number], "int32")


def levels(scores):
    """Map scores to (0, 1), in their order.

    (1 + s / (1 + |s|)) / 2; not the sigmoid, which is 1 for scores above 17.
    """
    return 0.5 + 0.5 * scores / (1.0 + ops.abs(scores))


def choice_loss(logits, rows, mask=None):
    """Mean binary cross-entropy of logits with the choice of rows, a scalar.

    Args:
        logits: (B,T).
        rows: int32 (B,k), the tokens that pass.
        mask: `None` or Boolean (B,T). `False` tokens do not count.
    """
    ones = ops.ones_like(rows, dtype=logits.dtype)[:, :, None]
    target = indexing.add(ones, rows, ops.shape(logits)[1])[:, :, 0]
    losses = ops.softplus(logits) - target * logits
    weights = ops.ones_like(losses)
    if mask is not None:
        weights = ops.cast(mask, losses.dtype)
    count = ops.sum(weights)
    count = count + ops.cast(count == 0, count.dtype)
    return ops.sum(losses * weights) / count

"""Expert Choice by thresholds: no token competes with another.

Axes as in `keras_moe.routing`.
"""

from keras import ops

from keras_moe.dropless import drop_none
from keras_moe.plans import GroupedPlan
from keras_moe.scalars import keep
from keras_moe.scalars import scalar
from keras_moe.scoring import Choice
from keras_moe.sorting import largest


def threshold_choice(
    gates, thresholds, *, max_experts_per_token=None, mask=None
) -> GroupedPlan:
    """Expert Threshold routing (arXiv 2603.11535): each token by itself.

    Token t has every expert e with gates[t,e] > thresholds[e]: none, some or
    all. The experts of a token depend on no other token, so the choice is
    causal. An expert may have any number of tokens, up to all.

    Args:
        gates: float32 (G,T,E), none negative, usually the softmax over E of
            the logits.
        thresholds: (E,), none negative.
        max_experts_per_token: k, the most experts of a token. A token that
            exceeds more than k thresholds has the experts of its k largest
            gates. `None` is E. The plan's arrays have k rows for each token,
            however many experts it has.
        mask: `None` or Boolean (G,T); a `False` token has no expert.

    Raises:
        ValueError: if G·T·k reaches 2^31, see `dropless_choice`.
    """
    num_experts = gates.shape[2]
    scores = ops.stop_gradient(gates)
    choices = scores > thresholds  # (G,T,E)
    if mask is not None:
        choices = ops.logical_and(choices, mask[:, :, None])
    gate = keep(choices, gates)
    limit = max_experts_per_token
    if limit is None or limit >= num_experts:
        expert = ops.arange(0, num_experts, dtype="int32")
        expert = keep(choices, expert, num_experts)
    else:
        scores = keep(choices, scores, -1.0)
        expert = largest(scores, limit)  # (G,T,k)
        choices = ops.take_along_axis(scores, expert, axis=2) >= 0
        gate = ops.take_along_axis(gate, expert, axis=2)
        expert = keep(choices, expert, num_experts)
    return drop_none(Choice(expert, gate), num_experts, mask)


def moved_thresholds(
    thresholds, gates, share: float, momentum: float, mask=None
):
    """The thresholds (E,) after a training step.

        k = share · N, halves to even, at least 1 and at most N
        quantile[e] = the largest of N gates that k others of e exceed;
                      0 where k = N
        momentum · thresholds + (1 - momentum) · quantile

    where N counts the tokens of all groups that are not masked. A threshold of
    0, its initial value, becomes the quantile at once. A threshold keeps its
    value without tokens, N = 0, and where the result would be NaN.

    Args:
        thresholds: (E,), none negative.
        gates: float32 (G,T,E), none negative.
        share: share of the tokens that an expert should have,
            capacity_factor / E.
        momentum: from 0 up to, not including, 1.
        mask: `None` or Boolean (G,T).
    """
    num_experts = gates.shape[2]
    scores = ops.reshape(ops.stop_gradient(gates), (-1, num_experts))
    total = ops.shape(scores)[0]
    if mask is None:
        number = scalar(total, "int32")
    else:
        rows = ops.reshape(mask, (-1, 1))
        scores = keep(rows, scores)
        number = ops.sum(ops.cast(rows, "int32"))
    # Masked tokens have 0, and so has one row more, the quantile of k = N.
    lowest = ops.zeros((1, num_experts), scores.dtype)
    ordered = ops.sort(ops.concatenate([scores, lowest], axis=0), axis=0)
    count = ops.round(ops.cast(number, "float32") * share)  # k
    count = ops.maximum(ops.cast(count, "int32"), scalar(1, "int32"))
    place = total - ops.minimum(count, number)
    quantile = ops.take(ordered, ops.reshape(place, (1,)), axis=0)[0]
    average = thresholds + (1.0 - momentum) * (quantile - thresholds)
    average = ops.where(thresholds == 0, quantile, average)
    valid = ops.logical_and(number > 0, average == average)  # no NaN
    return ops.where(valid, average, thresholds)

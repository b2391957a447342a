"""Expert Choice without competition: a token goes where it scores enough.

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
    all. No other token matters, so the choice is causal. An expert may have
    any number of tokens, up to all.

    Args:
        gates: float32 (G,T,E), none negative, usually the softmax over E of
            the logits.
        thresholds: (E,), none negative.
        max_experts_per_token: k, the most experts of a token: of more, it has
            those of its k largest gates. `None` is E. A token takes k rows of
            the plan's arrays, however many experts it has.
        mask: `None` or Boolean (G,T); a `False` token has no expert.

    Raises:
        ValueError: if G·T·k reaches 2^31, see `dropless_choice`.
    """
    num_experts = gates.shape[2]
    scores = ops.stop_gradient(gates)
    chosen = scores > thresholds  # (G,T,E)
    if mask is not None:
        chosen = ops.logical_and(chosen, mask[:, :, None])
    gate = keep(chosen, gates)
    limit = max_experts_per_token
    if limit is None or limit >= num_experts:
        expert = ops.arange(0, num_experts, dtype="int32")
        expert = keep(chosen, expert, num_experts)
    else:
        scores = keep(chosen, scores, -1.0)
        expert = largest(scores, limit)  # (G,T,k)
        chosen = ops.take_along_axis(scores, expert, axis=2) >= 0
        gate = ops.take_along_axis(gate, expert, axis=2)
        expert = keep(chosen, expert, num_experts)
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
    0, which none has moved yet, becomes the quantile at once. Without tokens,
    N = 0, all stay, and none becomes NaN.

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
        seen = ops.reshape(mask, (-1, 1))
        scores = keep(seen, scores)
        number = ops.sum(ops.cast(seen, "int32"))
    # Masked tokens are the last, and one that all others exceed.
    lowest = ops.zeros((1, num_experts), scores.dtype)
    ordered = ops.sort(ops.concatenate([scores, lowest], axis=0), axis=0)
    wanted = ops.round(ops.cast(number, "float32") * share)
    wanted = ops.maximum(ops.cast(wanted, "int32"), scalar(1, "int32"))
    place = total - ops.minimum(wanted, number)
    quantile = ops.take(ordered, ops.reshape(place, (1,)), axis=0)[0]
    moved = thresholds + (1.0 - momentum) * (quantile - thresholds)
    moved = ops.where(thresholds == 0, quantile, moved)
    valid = ops.logical_and(number > 0, moved == moved)
    return ops.where(valid, moved, thresholds)

"""From router logits to each token's experts and gates, as models publish it.

    scores (G,T,E) -> experts (G,T,k), gates (G,T,k)

Pure functions on `keras.ops`, in float32. Axes as in `keras_moe.routing`.
"""

from typing import Any
from typing import NamedTuple

from keras import ops

from keras_moe import indexing
from keras_moe.plans import softmax
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep
from keras_moe.sorting import largest

SCORINGS = ("softmax", "sigmoid", "softmax_top_k")


class Choice(NamedTuple):
    """The experts of each token.

    Args:
        expert: int32 (G,T,k), all different, from the highest score on; E
            where the token is masked.
        gate: float32 (G,T,k), the weight of each expert's output; 0 where the
            token is masked.
        scores: float32 (G,T,E), what the gates were made of, or `None`.
    """

    expert: Any
    gate: Any
    scores: Any = None


def choose_experts(
    logits,
    top_k: int,
    *,
    scoring: str = "softmax",
    normalize_gates: bool = False,
    routed_scaling: float = 1.0,
    balance_bias=None,
    num_expert_groups: int | None = None,
    top_groups: int | None = None,
    mask=None,
) -> Choice:
    """Choose the `top_k` experts of each token, and their gates.

        scores = softmax over E, or sigmoid, of the logits            (T,E)
        experts of t = the top_k largest of scores[t] + balance_bias
        gates = scores of these experts
        gates = gates / their sum             if normalize_gates
        gates = gates · routed_scaling

    `"softmax_top_k"` chooses by the logits, and the gates are the softmax over
    the chosen logits. Ties go to the first expert.

    With groups, only the experts of a token's `top_groups` best groups can be
    chosen: consecutive experts form a group, whose score is the sum of its two
    best scores, balance bias included (DeepSeek-V3).

    Args:
        logits: float32 (G,T,E), the router's bias and noise included.
        top_k: k, at most E, and at most the experts of `top_groups` groups.
        scoring: `"softmax"` (V-MoE, Mixtral, Qwen), `"sigmoid"` (DeepSeek-V3)
            or `"softmax_top_k"` (gpt-oss).
        normalize_gates: whether the gates of a token sum to one (Mixtral).
        routed_scaling: factor of the gates (DeepSeek-V3: 2.5).
        balance_bias: `None` or (E,), added for the choice, not to the gates
            (arXiv 2408.15664). No gradient passes to it.
        num_expert_groups: `None` or the number of groups, which divides E.
        top_groups: `None` or how many groups a token may choose from.
        mask: `None` or Boolean (G,T); a `False` token has no experts.

    Raises:
        ValueError: for arguments that do not fit each other.

    References: arXiv 2412.19437, section 2.1.2 (sigmoid, groups, scaling);
    2401.04088 (Mixtral); 2508.10925 (gpt-oss).
    """
    num_experts = logits.shape[2]
    check_choice(num_experts, top_k, num_expert_groups, top_groups)
    if mask is not None:  # whatever a masked token holds
        logits = keep(mask[:, :, None], logits)
    scores = score(logits, scoring)
    order = ops.stop_gradient(scores)
    if balance_bias is not None:
        order = order + ops.stop_gradient(balance_bias)
    if num_expert_groups is not None:
        order = _limit_groups(order, num_expert_groups, top_groups)
    expert = largest(order, top_k)  # (G,T,k)
    gate = ops.take_along_axis(scores, expert, axis=2)
    if scoring == "softmax_top_k":
        gate = softmax(gate, axis=-1)
    elif normalize_gates:
        total = ops.sum(gate, axis=2, keepdims=True)
        gate = gate / (total + ops.cast(total == 0, total.dtype))
    if routed_scaling != 1:
        gate = gate * routed_scaling
    if mask is not None:
        mask = mask[:, :, None]
        gate = keep(mask, gate)
        expert = keep(mask, expert, num_experts)
    return Choice(expert, gate, scores)


def choose_largest(gates, top_k: int, mask=None) -> Choice:
    """Choose the experts of each token's largest gates, ties to the first.

    Args:
        gates: float32 (G,T,E).
        top_k: k.
        mask: `None` or Boolean (G,T); a `False` token has no experts.
    """
    num_experts = gates.shape[2]
    check_choice(num_experts, top_k)
    if mask is not None:  # whatever a masked token holds
        gates = keep(mask[:, :, None], gates)
    expert = largest(ops.stop_gradient(gates), top_k)  # (G,T,k)
    gate = ops.take_along_axis(gates, expert, axis=2)
    if mask is not None:
        expert = keep(mask[:, :, None], expert, num_experts)
    return Choice(expert, gate)


def score(logits, scoring: str):
    """Score each expert, (G,T,E): gates are made of these scores."""
    if scoring == "softmax":
        return softmax(logits, axis=-1)
    return ops.sigmoid(logits) if scoring == "sigmoid" else logits


def shares(scores, scoring: str):
    """Make the sum over E of scores (G,T,E) one, for balance losses."""
    if scoring == "softmax":
        return scores
    if scoring == "softmax_top_k":
        return softmax(scores, axis=-1)
    return scores / ops.sum(scores, axis=-1, keepdims=True)


def check_choice(
    num_experts: int,
    top_k: int,
    num_expert_groups: int | None = None,
    top_groups: int | None = None,
) -> None:
    """Raise an error where the numbers of a choice do not fit each other."""
    if not 1 <= top_k <= num_experts:
        raise ValueError(
            "top_k must be an integer from 1 to the number of experts, "
            f"{num_experts}; received {top_k!r}."
        )
    if (num_expert_groups is None) != (top_groups is None):
        name, other = "top_groups", "num_expert_groups"
        if num_expert_groups is None:
            name, other = other, name
        raise ValueError(
            f"{name} must be given where {other} is; received {name}=None."
        )
    if num_expert_groups is None:
        return
    if num_experts % num_expert_groups:
        raise ValueError(
            "num_expert_groups must divide the number of experts, "
            f"{num_experts}; received {num_expert_groups}."
        )
    if top_groups > num_expert_groups:
        raise ValueError(
            "top_groups must not exceed num_expert_groups, "
            f"{num_expert_groups}; received {top_groups}."
        )
    reachable = top_groups * (num_experts // num_expert_groups)
    if top_k > reachable:
        raise ValueError(
            "top_k must not exceed the number of experts in top_groups groups, "
            f"{reachable}; received {top_k}."
        )


def _limit_groups(order, groups, top_groups):
    """(G,T,E), very low for the experts outside the best groups."""
    size = order.shape[2] // groups
    shape = ops.shape(order)
    members = ops.reshape(order, (*shape[:2], groups, size))
    best = _best(members, min(2, size))
    choice = largest(ops.sum(best, axis=-1), top_groups)  # (G,T,top_groups)
    number = ops.arange(0, groups, dtype="int32")
    inside = ops.any(choice[..., None] == number, axis=2)  # (G,T,groups)
    members = keep(inside[..., None], members, MASKED)
    return ops.reshape(members, shape)


def _best(values, number):
    return ops.take_along_axis(values, largest(values, number), axis=-1)


def moved_balance_bias(bias, expert, rate: float):
    """The balance bias after a training step (arXiv 2408.15664, algorithm 1).

        bias[e] + rate · sign(mean load - load[e])

    where the load of an expert is the number of tokens that chose it.

    Args:
        bias: float32 (E,).
        expert: int32 (G,T,k), E for none.
        rate: u, at least 0.
    """
    num_experts = bias.shape[0]
    index = ops.reshape(expert, (1, -1))
    ones = ops.ones_like(index)[:, :, None]
    load = indexing.add(ones, index, num_experts + 1)[0, :-1, 0]  # (E,)
    load = ops.cast(load, bias.dtype)
    return bias + rate * ops.sign(ops.mean(load) - load)

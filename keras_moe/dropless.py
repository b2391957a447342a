"""Token choice without capacity: each token has all the experts it chose."""

import math

import keras
from keras import ops

from keras_moe import checks
from keras_moe.plans import GroupedPlan
from keras_moe.scalars import keep

LIMIT = 2**31  # pairs that an int32 counts


def dropless_choice(gates, top_k, *, mask=None) -> GroupedPlan:
    """Dropless token choice (MegaBlocks, arXiv 2211.15841; Mixtral, 2401.04088).

    Token t has the `top_k` experts of its largest gates[t], ties go to the
    first; no expert has a capacity, and no token is dropped. Gates are not
    normalised again.

    No array is as large as experts x pairs of a token and an expert. Pairs of
    all groups are counted through: 2^31 of them or more are refused.

    Args:
        gates: float32 (G,T,E), usually the softmax over E of the logits.
        top_k: k, the experts of each token.
        mask: `None` or Boolean (G,T); a `False` token has no expert.

    Raises:
        ValueError: for a `top_k` that does not fit, or too many pairs;
            `tf.errors.InvalidArgumentError` where only TensorFlow's running
            graph knows how many there are.
    """
    num_experts = gates.shape[2]
    if not 1 <= top_k <= num_experts:
        raise ValueError(
            "top_k must be an integer from 1 to the number of experts, "
            f"{num_experts}; received {top_k!r}."
        )
    gates = _countable(gates, top_k)
    if mask is not None:  # whatever a masked token holds
        gates = keep(mask[:, :, None], gates)
    expert = largest(ops.stop_gradient(gates), top_k)  # (G,T,k)
    gate = ops.take_along_axis(gates, expert, axis=2)  # (G,T,k)
    if mask is not None:
        expert = keep(mask[:, :, None], expert, num_experts)
    return GroupedPlan(expert, gate, num_experts, mask)


def largest(values, number):
    """Indices of the `number` largest of the last axis, ties to the first.

    int32, from the largest on.
    """
    if keras.backend.backend() == "torch":
        # Its topk breaks ties as it likes.
        order = ops.argsort(-values, axis=-1)[..., :number]
    else:
        order = ops.top_k(values, number)[1]
    return ops.cast(order, "int32")


def _countable(gates, top_k):
    """The gates; an error where their pairs are too many for an int32."""
    rule = f"inputs must hold fewer than 2^31 / top_k tokens, top_k={top_k};"
    groups, tokens = gates.shape[:2]
    if all(isinstance(size, int) for size in (groups, tokens)):
        if groups * tokens * top_k >= LIMIT:
            raise ValueError(f"{rule} received {groups * tokens}.")
        return gates
    return checks.at_run_time(
        gates,
        lambda gates: _product(ops.shape(gates)[:2]) < LIMIT / top_k,
        f"{rule} received more.",
    )


def _product(sizes):
    """Of sizes, as a float64: an int32 could overflow."""
    return math.prod(ops.cast(size, "float64") for size in sizes)

"""Token choice without capacity: each token has all the experts it chose."""

import math

from keras import ops

from keras_moe import checks
from keras_moe import scoring
from keras_moe.plans import GroupedPlan

LIMIT = 2**31  # pairs that an int32 counts


def dropless_choice(gates, top_k, *, mask=None) -> GroupedPlan:
    """Dropless token choice (MegaBlocks, arXiv 2211.15841; Mixtral 2401.04088).

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
    # Before anything is made; top_k itself is checked by the choice.
    _check_count(*gates.shape[:2], top_k)
    choice = scoring.choose_largest(gates, top_k, mask)
    return drop_none(choice, gates.shape[2], mask)


def drop_none(choice, num_experts: int, mask=None) -> GroupedPlan:
    """Give each token all the experts that it chose, see `dropless_choice`.

    Args:
        choice: a `scoring.Choice`.
        num_experts: E.
        mask: `None` or Boolean (G,T).
    """
    expert = _countable(choice.expert)
    return GroupedPlan(expert, choice.gate, num_experts, mask)


def _check_count(groups, tokens, top_k):
    """Raise an error if an int32 cannot count the pairs; return the rule."""
    rule = (
        "inputs must hold fewer than 2^31 / k tokens, where a token may have "
        f"k={top_k} experts;"
    )
    known = all(isinstance(size, int) for size in (groups, tokens, top_k))
    if known and groups * tokens * top_k >= LIMIT:
        raise ValueError(f"{rule} received {groups * tokens}.")
    return rule


def _countable(expert):
    """The experts (G,T,k); an error if an int32 cannot count the pairs."""
    groups, tokens, top_k = expert.shape
    rule = _check_count(groups, tokens, top_k)
    if all(isinstance(size, int) for size in (groups, tokens)):
        return expert
    return checks.at_run_time(
        expert,
        lambda expert: _product(ops.shape(expert)[:2]) < LIMIT / top_k,
        f"{rule} received more.",
    )


def _product(sizes):
    """Of sizes, as a float64: an int32 could overflow."""
    return math.prod(ops.cast(size, "float64") for size in sizes)

"""Token choice with a capacity: experts serve tokens until they are full.

Axes as in `keras_moe.routing`.
"""

import math
import numbers

import keras
from keras import ops

from keras_moe import checks
from keras_moe import indexing
from keras_moe import scoring
from keras_moe.plans import HardPlan
from keras_moe.scalars import keep
from keras_moe.scalars import scalar
from keras_moe.sorting import ascending
from keras_moe.sorting import descending


def expert_capacity(
    num_tokens,
    num_experts: int,
    capacity_factor: float,
    *,
    top_k: int = 1,
    rounding: str = "ceil",
    multiple_of: int = 1,
):
    """Compute S = num_tokens · top_k · capacity_factor / E, rounded.

    At least 1, however few the tokens, and at most T.

    Args:
        num_tokens: T, an integer, or a scalar tensor where the length is
            known only at run time; then S is a tensor too. Not on jax, where
            S is the size of an array and must be known.
        num_experts: E.
        capacity_factor: 1 gives every token `top_k` capacity slots on average.
        top_k: experts that a token chooses.
        rounding: `"ceil"`, or `"round"`, which takes halves to even.
        multiple_of: S is raised to a multiple of this, but not above T:
            an expert has no use for more slots than there are tokens.

    Raises:
        ValueError: if jax does not know T.
    """
    checks.integer("num_experts", num_experts)
    checks.choice("rounding", rounding, ("ceil", "round"))
    if isinstance(num_tokens, numbers.Integral):
        exact = num_tokens * top_k * capacity_factor / num_experts
        slots = math.ceil(exact) if rounding == "ceil" else round(exact)
        slots = max(slots, 1)
        slots = -(-slots // multiple_of) * multiple_of
        return min(slots, int(num_tokens))
    if keras.backend.backend() == "jax":
        raise ValueError(
            "num_tokens must be known when a program with expert capacities "
            f"is compiled on jax; received {num_tokens!r}. To export a model, "
            "give model.export an input_signature with the length of the "
            "sequences."
        )
    exact = ops.cast(num_tokens, "float64") * top_k * capacity_factor
    exact = exact / num_experts
    slots = ops.ceil(exact) if rounding == "ceil" else ops.round(exact)
    slots = ops.maximum(ops.cast(slots, "int32"), scalar(1, "int32"))
    slots = -(-slots // multiple_of) * multiple_of
    return ops.minimum(slots, scalar(num_tokens, "int32"))


def token_choice(
    gates, top_k, capacity, *, batch_priority=False, mask=None
) -> HardPlan:
    """Token choice (V-MoE, arXiv 2106.05974): experts with a capacity.

    Every token chooses the `top_k` experts of its largest gates. An expert
    takes all first choices before any second choice and, within a choice, the
    earlier token first (or, `batch_priority`, the token with the larger best
    gate). A token that finds its expert full is dropped by it. Gates are not
    normalised again.

    Args:
        gates: float32 (G,T,E), usually the softmax over E of the logits.
        top_k: experts that a token chooses.
        capacity: S, capacity slots of each expert.
        batch_priority: which token comes first, see above.
        mask: `None` or Boolean (G,T); a `False` token chooses nothing.
    """
    choice = scoring.choose_largest(gates, top_k, mask)
    return fill(
        choice,
        gates.shape[2],
        capacity,
        batch_priority=batch_priority,
        mask=mask,
    )


def fill(
    choice, num_experts: int, capacity, *, batch_priority=False, mask=None
) -> HardPlan:
    """Fill the experts' capacity slots with what tokens chose.

    Args:
        choice: a `scoring.Choice`.
        num_experts: E.
        capacity: S, capacity slots of each expert.
        batch_priority: see `token_choice`.
        mask: `None` or Boolean (G,T).
    """
    best, gates = choice.expert, choice.gate  # (G,T,k)
    num_tokens = ops.shape(best)[1]
    pairs = num_tokens * best.shape[2]
    rank = None
    if batch_priority:
        first = ops.max(ops.stop_gradient(gates), axis=2)
        rank = descending(first)  # (G,T)
        best = ops.take_along_axis(best, rank[:, :, None], axis=1)
        gates = ops.take_along_axis(gates, rank[:, :, None], axis=1)

    # Pairs (choice, token) in the order in which experts take them. Sorted by
    # expert, that order kept, they are the experts' queues. No number here
    # exceeds E or T·k.
    best = ops.reshape(ops.transpose(best, (0, 2, 1)), (-1, pairs))
    gates = ops.reshape(ops.transpose(gates, (0, 2, 1)), (-1, pairs))
    queue = ascending(best)  # (G,T·k)

    # Queue e starts behind all pairs that chose an expert before e.
    ones = ops.ones_like(best)[:, :, None]
    length = indexing.add(ones, best, num_experts + 1)[:, :-1, 0]  # (G,E)
    start = ops.cumsum(length, axis=1) - length
    slot = ops.arange(0, capacity, dtype="int32")
    in_use = slot < length[:, :, None]  # (G,E,S)
    last = scalar(pairs - 1, "int32")
    place = ops.minimum(start[:, :, None] + slot, last)
    place = ops.reshape(place, (-1, num_experts * capacity))
    pair = ops.take_along_axis(queue, place, axis=1)
    gate = ops.take_along_axis(gates, pair, axis=1)
    token = pair % num_tokens
    if rank is not None:
        token = ops.take_along_axis(rank, token, axis=1)
    slots = (-1, num_experts, capacity)
    token = ops.reshape(token, slots)
    gate = keep(in_use, ops.reshape(gate, slots))
    return HardPlan(token, gate, num_tokens, mask)

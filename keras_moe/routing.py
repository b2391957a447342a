"""From router logits to plans: pure functions on `keras.ops`, in float32.

    tokens (G,T,D) -> plan -> slots (G,E,S,D) -> experts -> tokens (G,T,D)

G groups, T tokens of a group, E experts, S slots of an expert, D features.
Tokens are routed inside their group, never across. A router ends in one of
three plans, `SoftPlan`, `HardPlan` and `GroupedPlan`; each writes out the same
dense arrays, so one pair of products defines dispatch and combine for every
router (`keras_moe.ops.reference`).
"""

from keras import ops

from keras_moe.capacity import expert_capacity as expert_capacity
from keras_moe.capacity import fill as fill
from keras_moe.capacity import token_choice as token_choice
from keras_moe.capped_choice import assign_capped
from keras_moe.dropless import drop_none as drop_none
from keras_moe.dropless import dropless_choice as dropless_choice
from keras_moe.plans import GroupedPlan as GroupedPlan
from keras_moe.plans import HardPlan as HardPlan
from keras_moe.plans import SoftPlan as SoftPlan
from keras_moe.plans import soften as soften
from keras_moe.scalars import keep
from keras_moe.scoring import Choice as Choice
from keras_moe.scoring import choose_experts as choose_experts
from keras_moe.sorting import ascending as ascending
from keras_moe.sorting import descending as descending
from keras_moe.thresholds import moved_thresholds as moved_thresholds
from keras_moe.thresholds import threshold_choice as threshold_choice

__all__ = [
    "Choice",
    "GroupedPlan",
    "HardPlan",
    "SoftPlan",
    "ascending",
    "best_expert",
    "choose_experts",
    "descending",
    "drop_none",
    "dropless_choice",
    "expert_capacity",
    "expert_choice",
    "fill",
    "mixture_of_tokens",
    "moved_thresholds",
    "soft_moe",
    "soften",
    "threshold_choice",
    "token_choice",
    "unit",
]


def unit(x, axis: int, epsilon: float = 1e-6):
    """Scale vectors to length one: x / sqrt(sum(x²) + epsilon).

    `epsilon` stands inside the root, so that a zero vector stays zero and
    its gradient finite (as in vmoe's soft_moe/router.py; the paper's listing
    has it outside).
    """
    square = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(square + epsilon)


def soft_moe(
    tokens,
    slot_embedding,
    scale=None,
    *,
    normalize=True,
    max_scale=None,
    noise=None,
    mask=None,
) -> SoftPlan:
    """Soft MoE (arXiv 2308.00951, section 2.1 and algorithm 2).

    L = unit(X) · (scale · unit(Φ)); dispatch is the softmax of L over tokens,
    combine the softmax of L over all slots of all experts.

    Args:
        tokens: float32 (G,T,D), X.
        slot_embedding: float32 (D,E,S), Φ.
        scale: `None` (one), a number or a scalar tensor.
        normalize: `False` takes X and Φ as they are.
        max_scale: `None`, or a number that bounds |scale|: of a larger one
            the sign stays. Not in the paper.
        noise: `None` or (G,T,E,S), added to L.
        mask: `None` or Boolean (G,T).
    """
    bound, known = None, scale is None or isinstance(scale, (int, float))
    if max_scale is not None and not known:
        scale = _limited(scale, max_scale)
    if normalize:
        tokens = unit(tokens, axis=-1)
        slot_embedding = unit(slot_embedding, axis=0)
        bound = max_scale
        if known:
            bound = 1.0 if scale is None else abs(float(scale))
    if scale is not None:
        slot_embedding = slot_embedding * scale
    return SoftPlan(
        tokens,
        slot_embedding,
        noise=noise,
        mask=mask,
        bound=bound,
        scale=scale if normalize and not known else None,
    )


def _limited(scale, largest):
    """The scale, brought to ±largest if it is beyond, whose gradient stays."""
    size = ops.stop_gradient(ops.abs(scale))
    return scale * keep(size > largest, largest / size, 1.0)


def mixture_of_tokens(
    tokens,
    router_kernel,
    *,
    merge_temperature=1.0,
    emit_temperature=None,
    emit_over_experts=False,
    mask=None,
    copies=1,
    discrete=False,
) -> SoftPlan:
    """Mixture of Tokens (arXiv 2310.15961): one mixed token per expert.

    An expert reads the softmax over its group of x·c_e / temperature, and its
    answer goes back with the same weights (or, `emit_over_experts`, with the
    softmax over experts).

    Args:
        tokens: float32 (G,T,D), a group is what is mixed together.
        router_kernel: float32 (D,E), the columns c_e.
        merge_temperature: number or (E,).
        emit_temperature: number or (E,); `None` is the merge one.
        emit_over_experts: what the emit weights sum to one over: the experts,
            or (`False`) the tokens of the group.
        mask: `None` or Boolean (G,T).
        copies: see `SoftPlan`.
        discrete: see `SoftPlan`.
    """
    return SoftPlan(
        tokens,
        router_kernel[:, :, None],
        mask=mask,
        merge_temperature=merge_temperature,
        emit_temperature=emit_temperature,
        combine_over="slots" if emit_over_experts else "tokens",
        copies=copies,
        discrete=discrete,
    )


def best_expert(logits, mask=None) -> HardPlan:
    """Send each token, with weight 1, to the expert of its largest logit.

    For tokens that are groups of their own: a token is with one of the E
    experts, whose S = 1 slot is enough for it. Ties go to the first expert.

    Args:
        logits: (G,1,E).
        mask: `None` or Boolean (G,1); a `False` token has no expert.
    """
    # Neither ops.argmax nor a stable sort: ONNX lacks a bit cast that Keras
    # puts in the one for TensorFlow, and PyTorch's exporter the other.
    experts = ops.arange(0, logits.shape[2], dtype="int32")
    largest = ops.max(logits, axis=2, keepdims=True)
    best = keep(logits == largest, experts, logits.shape[2])  # (G,1,E)
    best = ops.min(best, axis=2)  # (G,1)
    gate = ops.cast(best == experts, logits.dtype)  # (G,E)
    if mask is not None:
        gate = gate * ops.cast(mask, logits.dtype)
    gate = gate[:, :, None]  # (G,E,S)
    return HardPlan(ops.zeros_like(gate, dtype="int32"), gate, 1, mask)


def expert_choice(
    gates, capacity, *, mask=None, max_experts_per_token=None
) -> HardPlan:
    """Expert Choice (arXiv 2202.09368): each expert takes its best tokens.

    Expert e fills its S slots with the `capacity` tokens of the largest
    gates[:, e]; ties go to the earlier token. Gates are not normalised again.

    Args:
        gates: float32 (G,T,E), none negative, usually the softmax over E of
            the logits.
        capacity: S, capacity slots of each expert, at most T.
        mask: `None` or Boolean (G,T); a `False` token is never taken, and
            slots left over are empty.
        max_experts_per_token: `None`, or the most experts that may take one
            token (section 3.3 of the paper, `capped_choice.assign_capped`).
    """
    scores = ops.stop_gradient(gates)
    eligible = None if mask is None else mask[:, :, None]
    if max_experts_per_token is not None:
        eligible = assign_capped(scores, capacity, max_experts_per_token, mask)
    if eligible is not None:
        scores = keep(eligible, scores, -1.0)
    scores = ops.transpose(scores, (0, 2, 1))  # (G,E,T)
    token = descending(scores)[:, :, :capacity]  # (G,E,S)
    gate = ops.take_along_axis(ops.transpose(gates, (0, 2, 1)), token, axis=2)
    if eligible is not None:
        in_use = ops.take_along_axis(scores, token, axis=2) >= 0
        gate = keep(in_use, gate)
    return HardPlan(token, gate, ops.shape(gates)[1], mask)

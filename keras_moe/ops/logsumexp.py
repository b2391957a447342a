"""Soft plans as two softmaxes of the same kept logits L (T,N), N = E·S.

    c = logsumexp over t of L,   r = logsumexp over n of L
    slots = exp(L - c)ᵀ · tokens,   tokens = exp(L - r) · slots

The weights are computed where they are multiplied, so that compilers for GPUs
and TPUs keep L alone of all arrays (T,N).
"""

import dataclasses
from typing import Any

from keras import ops

from keras_moe.ops.reference import FlatDispatcher
from keras_moe.scalars import MASKED as MASKED
from keras_moe.scalars import keep
from keras_moe.scalars import scalar

LOWEST = -1e29  # the least logsumexp: exp(MASKED - LOWEST) is zero


def prepare(plan, dtype):
    """Compute the logits of a plan and their logsumexps."""
    features, experts, capacity = plan.slots.shape
    flat = ops.reshape(plan.slots, (features, experts * capacity))
    logits = ops.einsum("gtd,dn->gtn", plan.tokens, flat)
    if plan.noise is not None:
        length = ops.shape(logits)[1]
        logits += ops.reshape(plan.noise, (-1, length, experts * capacity))
    if plan.mask is not None:
        logits = keep(plan.mask[:, :, None], logits, MASKED)
    sums = (ops.logsumexp(logits, axis=axis) for axis in (1, 2))
    # Not `ops.maximum`, which takes float64 for float32 on PyTorch.
    sums = (ops.where(s < LOWEST, scalar(LOWEST, s.dtype), s) for s in sums)
    return LogsumexpDispatcher(logits, *sums, (experts, capacity))


@dataclasses.dataclass(frozen=True)
class LogsumexpDispatcher(FlatDispatcher):
    """L (G,T,N), its logsumexps c (G,N) and r (G,T), and (E,S)."""

    logits: Any
    over_tokens: Any
    over_slots: Any
    slot_shape: Any

    def _dispatch(self, tokens):
        weights = ops.exp(self.logits - self.over_tokens[:, None])
        weights = ops.cast(weights, tokens.dtype)
        return ops.einsum("gtn,gtd->gnd", weights, tokens)

    def _combine(self, slots):
        weights = ops.exp(self.logits - self.over_slots[:, :, None])
        return ops.einsum("gtn,gnd->gtd", ops.cast(weights, slots.dtype), slots)

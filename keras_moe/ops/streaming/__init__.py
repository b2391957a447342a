"""Soft plans without any array (tokens x slots), forward or backward.

Dispatch is attention from slots to tokens, combine attention from tokens to
slots, and both run in blocks of rows small enough to stay in a cache:

    slots = softmax over t of (Φᵀ · X / temperature) · tokens
    tokens = softmax over n of (X · Φ / temperature) · slots,   N = E·S

Gradients compute each block's weights again. The memory beyond inputs and
outputs is one block; the work is the logits' product three times more than
where they are kept. For long sequences: below, `shared_exp` is faster.

A plan with noise holds an array (T,N) itself, and a combine over tokens or a
discrete plan is no attention: these are refused.
"""

import dataclasses
import importlib
from typing import Any

import keras
from keras import ops

from keras_moe.ops.reference import FlatDispatcher

backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def prepare(plan, dtype):
    """Put the temperatures into the slot embeddings."""
    merge = plan.merge_temperature
    emit = plan.emit_temperature
    emit = merge if emit is None else emit
    return StreamingDispatcher(
        plan.tokens,
        _rows(plan.slots, merge),
        _rows(plan.slots, emit),
        plan.mask,
        plan.slots.shape[1:],
    )


def _rows(slots, temperature):
    """(D,E,S) -> (N,D), over a number or (E,)."""
    if not isinstance(temperature, (int, float)):
        temperature = ops.reshape(temperature, (-1, 1))
    slots = slots / temperature
    return ops.transpose(ops.reshape(slots, (slots.shape[0], -1)))


@dataclasses.dataclass(frozen=True)
class StreamingDispatcher(FlatDispatcher):
    """Factors of the logits: tokens (G,T,D), slots (N,D) to merge and emit."""

    tokens: Any
    merge: Any
    emit: Any
    mask: Any
    slot_shape: Any

    def _dispatch(self, tokens):
        return backend.dispatch(tokens, self.merge, self.tokens, self.mask)

    def _combine(self, slots):
        return backend.combine(slots, self.emit, self.tokens, self.mask)

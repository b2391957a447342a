"""Terms of contrastive losses, sums over pairs, and gradients by logits.

A sum goes over chunks of R rows. Its state is (total of the rows so far, what
is known of each column so far).
"""

import dataclasses
from typing import Any
from typing import NamedTuple

from keras import ops

from keras_moe.scalars import MASKED
from keras_moe.scalars import keep
from keras_moe.scalars import scalar

LOWEST = -1e29  # the least logsumexp: exp(MASKED - LOWEST) is zero


class Pairs(NamedTuple):
    """Pairs of an image and a text, the rows or the columns of the logits.

    Attributes:
        index: int32 (B,), the place in the batch.
        captions: `None` or int32 (B,), equal where captions are.
        mask: `None` or Boolean (B,), the pairs that count.
    """

    index: Any
    captions: Any
    mask: Any


def _seen(rows, columns, same_caption):
    """Logits that count: `None` (all) or Boolean (R,B)."""
    seen = None
    if same_caption == "ignore" and columns.captions is not None:
        other = rows.captions[:, None] != columns.captions[None]
        same = rows.index[:, None] == columns.index[None]
        seen = ops.logical_or(other, same)
    for mask in (
        None if rows.mask is None else rows.mask[:, None],
        None if columns.mask is None else columns.mask[None],
    ):
        if mask is not None:
            seen = mask if seen is None else ops.logical_and(seen, mask)
    return seen


def _sum(values, mask):
    return ops.sum(values if mask is None else keep(mask, values))


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Sum of -log sigmoid(z · logits), z = 1 for positives and -1 for others.

    Attributes:
        same_caption: as the argument of the loss.
    """

    same_caption: str
    needs_columns = False  # for the gradient of a row

    def start(self, columns):
        zero = scalar(0.0, "float32")
        return zero, zero

    def add(self, state, values, rows, columns):
        """Add the rows of values (R,B) to the state."""
        total, nothing = state
        positive, seen = self._facts(rows, columns)
        signed = ops.where(positive, -values, values)
        return total + _sum(ops.softplus(signed), seen), nothing

    def finish(self, state, columns):
        return state[0]

    def gradient(self, values, rows, columns, known):
        """Total of the rows, and its gradient by their values (R,B)."""
        positive, seen = self._facts(rows, columns)
        signed = ops.where(positive, -values, values)
        gradient = ops.sigmoid(signed)
        gradient = ops.where(positive, -gradient, gradient)
        if seen is not None:
            gradient = keep(seen, gradient)
        return _sum(ops.softplus(signed), seen), gradient

    def _facts(self, rows, columns):
        row, column = rows.index, columns.index
        if self.same_caption == "positive" and columns.captions is not None:
            row, column = rows.captions, columns.captions
        positive = row[:, None] == column[None]
        return positive, _seen(rows, columns, self.same_caption)


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Sum of the logsumexps of all rows and of all columns.

    Attributes:
        same_caption: as the argument of the loss.
    """

    same_caption: str
    needs_columns = True  # for the gradient of a row

    def start(self, columns):
        over = ops.zeros_like(columns.index, dtype="float32") + MASKED
        return scalar(0.0, "float32"), over

    def add(self, state, values, rows, columns):
        """Add the rows of values (R,B) to the state."""
        values = self._masked(values, rows, columns)
        total, over = state
        total = total + _sum(ops.logsumexp(values, axis=1), rows.mask)
        return total, _more(over, values)

    def finish(self, state, columns):
        total, over = state
        return total + _sum(over, columns.mask)

    def add_columns(self, known, values, rows, columns):
        """Logsumexps of the columns (B,) over the rows so far."""
        return _more(known, self._masked(values, rows, columns))

    def gradient(self, values, rows, columns, known):
        """Total of the rows, and its gradient by their values (R,B)."""
        values = self._masked(values, rows, columns)
        largest = ops.max(values, axis=1, keepdims=True)
        weights = ops.exp(values - largest)
        total = ops.sum(weights, axis=1, keepdims=True)
        over = (largest + ops.log(total))[:, 0]
        share = 1.0 / total
        if rows.mask is not None:
            share = keep(rows.mask[:, None], share)
        # Masked columns: exp(MASKED - LOWEST) is zero.
        known = ops.where(known < LOWEST, scalar(LOWEST, "float32"), known)
        gradient = weights * share + ops.exp(values - known)
        return _sum(over, rows.mask), gradient

    def _masked(self, values, rows, columns):
        seen = _seen(rows, columns, self.same_caption)
        return values if seen is None else keep(seen, values, MASKED)


def _more(over, values):
    """Logsumexps (B,) with further rows (R,B)."""
    return ops.logaddexp(over, ops.logsumexp(values, axis=0))

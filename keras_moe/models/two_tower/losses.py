"""Contrastive losses of two towers."""

from typing import Any
from typing import NamedTuple

from keras import ops

from keras_moe import checks
from keras_moe import indexing
from keras_moe import sorting
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep
from keras_moe.scalars import scalar

KINDS = ("sigmoid", "softmax")
SAME_CAPTIONS = ("positive", "ignore", "negative")
LOWEST = -1e29  # the least logsumexp: exp(MASKED - LOWEST) is zero


def contrastive_loss(
    image_embeddings,
    text_embeddings,
    logit_scale,
    logit_bias=None,
    *,
    kind: str,
    captions=None,
    same_caption: str = "positive",
    mask=None,
    chunk_size: int | None = None,
):
    """Compare each image of a batch with each text, and return float32 ()."""
    checks.choice("kind", kind, KINDS)
    checks.choice("same_caption", same_caption, SAME_CAPTIONS)
    checks.optional_integer("chunk_size", chunk_size)
    images = ops.cast(image_embeddings, "float32")  # (B,D)
    texts = ops.cast(text_embeddings, "float32")  # (B,D)
    scale = ops.cast(logit_scale, "float32")
    bias = 0.0 if logit_bias is None else logit_bias
    bias = ops.zeros((), "float32") + ops.cast(bias, "float32")
    arrays = (images, texts, scale, bias)
    if mask is not None:
        mask = ops.cast(mask, "bool")
        arrays = (
            keep(mask[:, None], images),
            keep(mask[:, None], texts),
            scale,
            bias,
        )
    if images.shape[0] == 0:
        return sum(ops.sum(array) for array in arrays) * 0.0
    if captions is None or same_caption == "negative":
        captions = None
    else:
        captions = _numbered(ops.convert_to_tensor(captions))
    pairs = _Pairs(ops.arange(0, ops.shape(images)[0]), captions, mask)
    loss = {"sigmoid": _Sigmoid, "softmax": _Softmax}[kind](
        pairs, same_caption == "positive"
    )
    if chunk_size is None:
        return _plain(loss, *arrays)
    return _chunked(loss, arrays, chunk_size)


class _Pairs(NamedTuple):
    """Pairs of an image and a text: rows or columns of the logits.

    Attributes:
        index: integers (B,), the place in the batch.
        captions: `None` or integers (B,), equal where captions are.
        mask: `None` or Boolean (B,), the pairs that count.
    """

    index: Any
    captions: Any
    mask: Any


class _Logits(NamedTuple):
    """Logits of some rows, and what each of them is.

    Attributes:
        values: float32 (R,B).
        positive: Boolean (R,B).
        seen: `None` (all) or Boolean (R,B).
    """

    values: Any
    positive: Any
    seen: Any


class _Loss:
    """What both kinds share."""

    def __init__(self, columns, equal_is_positive):
        self.columns = columns
        self.equal_is_positive = equal_is_positive
        if columns.mask is None:
            number = ops.cast(ops.shape(columns.index)[0], "float32")
        else:
            number = ops.sum(ops.cast(columns.mask, "float32"))
        self.number = ops.maximum(number, scalar(1.0, "float32"))

    def logits(self, rows, images, texts, scale, bias):
        """Compute the logits of rows: (R,D), (B,D) -> (R,B)."""
        values = ops.matmul(images, ops.transpose(texts)) * scale + bias
        columns = self.columns
        same = rows.index[:, None] == columns.index[None]
        positive, seen = same, None
        if columns.captions is not None:
            equal = rows.captions[:, None] == columns.captions[None]
            if self.equal_is_positive:
                positive = equal
            else:
                seen = ops.logical_or(same, ops.logical_not(equal))
        masks = [m for m in (rows.mask, columns.mask) if m is not None]
        if masks:
            both = (
                ops.logical_and(masks[0][:, None], masks[1][None])
                if len(masks) == 2
                else masks[0][:, None]
            )
            positive = ops.logical_and(positive, both)
            seen = both if seen is None else ops.logical_and(seen, both)
        return _Logits(values, positive, seen)


class _Sigmoid(_Loss):
    """-log sigmoid(±logits): a sum over pairs."""

    def prepare(self, chunks, arrays):
        return ()

    def rest(self, prepared):
        return 0.0

    def total(self, logits):
        return self._sum(logits, self._signed(logits))

    def _signed(self, logits):
        return ops.where(logits.positive, -logits.values, logits.values)

    def _sum(self, logits, signed):
        losses = ops.softplus(signed)
        if logits.seen is not None:
            losses = keep(logits.seen, losses)
        return ops.sum(losses) / self.number

    def total_and_gradient(self, logits, rows, prepared):
        signed = self._signed(logits)
        gradient = ops.sigmoid(signed)
        gradient = ops.where(logits.positive, -gradient, gradient)
        if logits.seen is not None:
            gradient = keep(logits.seen, gradient)
        return self._sum(logits, signed), gradient / self.number


class _Softmax(_Loss):
    """Cross entropies over the texts of each image, and the other way."""

    def total(self, logits):
        values = self._seen(logits)
        over = [_logsumexp(values, axis) for axis in (1, 0)]
        mask = self.columns.mask
        if mask is not None:
            over = [keep(mask, x) for x in over]
        positive = self._weights(logits) * logits.values
        total = sum(ops.sum(x) for x in over) - 2.0 * ops.sum(positive)
        return 0.5 * total / self.number

    def _seen(self, logits):
        if logits.seen is None:
            return logits.values
        return keep(logits.seen, logits.values, MASKED)

    def _weights(self, logits):
        """Share of each positive among those of its row."""
        positive = ops.cast(logits.positive, "float32")
        if self.columns.captions is None or not self.equal_is_positive:
            return positive
        number = ops.sum(positive, axis=1, keepdims=True)
        return positive / ops.maximum(number, scalar(1.0, "float32"))

    def prepare(self, chunks, arrays):
        """Logsumexp over the rows of all chunks, float32 (B,)."""

        def step(chunk, before):
            logits = self.logits(*chunks.rows(chunk), *arrays[1:])
            here = ops.logsumexp(self._seen(logits), axis=0)
            return ops.logaddexp(before, here)

        start = ops.zeros_like(arrays[1][:, 0]) + MASKED
        over = ops.fori_loop(0, chunks.number, step, start)
        return ops.where(over < LOWEST, scalar(LOWEST, "float32"), over)

    def total_and_gradient(self, logits, rows, prepared):
        values = self._seen(logits)
        over = _logsumexp(values, 1)
        weights = self._weights(logits)
        gradient = (
            ops.exp(values - over[:, None])
            + ops.exp(values - prepared[None])
            - 2.0 * weights
        )
        if rows.mask is not None:
            over = keep(rows.mask, over)
        total = ops.sum(over) - 2.0 * ops.sum(weights * logits.values)
        return 0.5 * total / self.number, gradient * (0.5 / self.number)

    def rest(self, prepared):
        mask = self.columns.mask
        over = prepared if mask is None else keep(mask, prepared)
        return 0.5 * ops.sum(over) / self.number


def _logsumexp(values, axis):
    over = ops.logsumexp(values, axis=axis)
    return ops.where(over < LOWEST, scalar(LOWEST, "float32"), over)


def _numbered(captions):
    """Number captions: integers (B,) or (B,L) -> (B,), equal for equal."""
    if len(captions.shape) == 1:
        return captions
    order = ops.arange(0, ops.shape(captions)[0], dtype="int32")
    for place in reversed(range(captions.shape[1])):
        column = ops.take(captions[:, place], order)
        order = ops.take(order, ops.cast(sorting.ascending(column), "int32"))
    ordered = ops.take(captions, order, axis=0)
    new = ops.any(ordered[1:] != ordered[:-1], axis=1)
    number = ops.cumsum(ops.cast(new, "int32"))
    number = ops.concatenate([ops.zeros_like(order[:1]), number])
    return ops.take(number, indexing.inverse(order))


def _plain(loss, images, texts, scale, bias):
    return loss.total(loss.logits(loss.columns, images, texts, scale, bias))


class _Chunks:
    """Rows r·N + k of N chunks: each device holds some of every chunk."""

    def __init__(self, images, pairs, size):
        batch = ops.shape(images)[0]
        self.number = -(-batch // size)
        self.size = -(-batch // self.number)
        padding = self.number * self.size - batch
        mask = pairs.mask
        if not isinstance(padding, int) or padding:
            images = ops.pad(images, ((0, padding), (0, 0)))
            if mask is None:
                mask = ops.ones_like(pairs.index, dtype="bool")
            pairs = _Pairs(
                ops.arange(0, self.number * self.size),
                *(
                    None if x is None else ops.pad(x, ((0, padding),))
                    for x in (pairs.captions, mask)
                ),
            )
        self.images = ops.reshape(images, (-1, self.number, images.shape[1]))
        self.pairs = _Pairs(
            *(
                None if x is None else ops.reshape(x, (-1, self.number))
                for x in pairs
            )
        )

    def rows(self, chunk):
        """The pairs and images of a chunk."""
        pairs = (
            None
            if x is None
            else ops.slice(x, (0, chunk), (self.size, 1))[:, 0]
            for x in self.pairs
        )
        features = self.images.shape[2]
        images = ops.slice(self.images, (0, chunk, 0), (self.size, 1, features))
        return _Pairs(*pairs), images[:, 0]


def _chunked(loss, arrays, size):
    kept = [ops.stop_gradient(array) for array in arrays]
    images, texts, scale, bias = kept
    chunks = _Chunks(images, loss.columns, size)
    prepared = loss.prepare(chunks, kept)

    def step(chunk, before):
        total, by_images, by_texts, by_bias = before
        rows, images = chunks.rows(chunk)
        logits = loss.logits(rows, images, texts, scale, bias)
        here, gradient = loss.total_and_gradient(logits, rows, prepared)
        by_images = ops.slice_update(
            by_images, (0, chunk, 0), ops.matmul(gradient, texts)[:, None]
        )
        by_texts = by_texts + ops.matmul(ops.transpose(gradient), images)
        return total + here, by_images, by_texts, by_bias + ops.sum(gradient)

    zero = ops.zeros((), "float32")
    start = (zero, ops.zeros_like(chunks.images), ops.zeros_like(texts), zero)
    total, by_images, by_texts, by_bias = ops.fori_loop(
        0, chunks.number, step, start
    )
    total = total + loss.rest(prepared)
    by_images = ops.reshape(by_images, (-1, texts.shape[1]))
    by_images = by_images[: ops.shape(texts)[0]]
    gradients = (
        by_images * scale,
        by_texts * scale,
        ops.sum(by_images * images),
        by_bias,
    )
    for array, old, gradient in zip(arrays, kept, gradients):
        total = total + ops.sum(ops.stop_gradient(gradient) * (array - old))
    return total

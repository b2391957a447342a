"""Contrastive losses of two towers."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import indexing
from keras_moe import sorting
from keras_moe.ops import pairs as all_pairs
from keras_moe.scalars import keep
from keras_moe.scalars import scalar

KINDS = {"sigmoid": all_pairs.Sigmoid, "softmax": all_pairs.Softmax}
SAME_CAPTIONS = ("positive", "ignore", "negative")


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
    bias = scalar(0.0, "float32")
    if logit_bias is not None:
        bias = bias + ops.cast(logit_bias, "float32")
    if mask is not None:
        mask = ops.cast(mask, "bool")
        images, texts = (keep(mask[:, None], x) for x in (images, texts))
    arrays = all_pairs.Arrays(images, texts, scale, bias)
    if images.shape[0] == 0:
        return sum(ops.sum(array) for array in arrays) * 0.0
    if captions is None or same_caption == "negative":
        captions = None
    else:
        captions = _numbered(ops.convert_to_tensor(captions))
    batch = ops.shape(images)[0]
    index = ops.arange(0, batch, dtype="int32")
    pairs = all_pairs.Pairs(index, captions, mask)
    if chunk_size is None:
        total = all_pairs.whole(KINDS[kind](same_caption), arrays, pairs)
    else:
        total = all_pairs.in_chunks(
            KINDS[kind](same_caption), arrays, pairs, chunk_size
        )
    if mask is None:
        number = ops.cast(batch, "float32")
    else:
        number = ops.sum(ops.cast(mask, "float32"))
    number = ops.maximum(number, scalar(1.0, "float32"))
    if kind == "softmax":
        if same_caption == "positive" and captions is not None:
            texts = _means(texts, pairs)
        positive = ops.sum(images * texts, axis=1) * scale + bias
        if mask is not None:
            positive = keep(mask, positive)
        total = 0.5 * total - ops.sum(positive)
    return total / number


def _numbered(captions):
    """Number captions: integers (B,) or (B,L) -> int32 (B,), from 0 on."""
    if len(captions.shape) == 1:
        captions = captions[:, None]
    order = ops.arange(0, ops.shape(captions)[0], dtype="int32")
    for place in reversed(range(captions.shape[1])):
        column = ops.take(captions[:, place], order)
        order = ops.take(order, sorting.ascending(column))
    ordered = ops.take(captions, order, axis=0)
    new = ops.any(ordered[1:] != ordered[:-1], axis=1)
    number = ops.cumsum(ops.cast(new, "int32"))
    number = ops.concatenate([ops.zeros_like(order[:1]), number])
    return ops.take(number, indexing.inverse(order))


def _means(texts, pairs):
    """Mean of the texts (B,D) that have the same caption as each: (B,D)."""
    ones = ops.ones_like(texts[:, :1])
    if pairs.mask is not None:
        ones = keep(pairs.mask[:, None], ones)
    rows = ops.concatenate([texts, ones], axis=1)[None]
    index = pairs.captions[None]
    sums = indexing.add(rows, index, ops.shape(texts)[0])
    sums = indexing.take(sums, index)[0]
    number = ops.maximum(sums[:, -1:], scalar(1.0, "float32"))
    return sums[:, :-1] / number

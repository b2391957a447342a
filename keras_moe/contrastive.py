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
    """Compare each image of a batch with each text, and return float32 ().

    logits[i,j] = scale · image_i · text_j + bias, over the n pairs that count.
    The loss of `"sigmoid"` (arXiv 2303.15343; vmoe/projects/contrastive/
    trainer.py) asks of each image and each text whether they belong together:

        -1/n sum_ij log sigmoid(z[i,j] · logits[i,j]),   z = 1 or -1

    That of `"softmax"` (arXiv 2103.00020) is the mean of two cross entropies,
    over the texts of each image and over the images of each text:

        1/2n sum_ij P[i,j] · (-log softmax_j logits[i,j] - log softmax_i
        logits[i,j])

    where P shares 1 evenly among the positives of a row. The loss depends on
    all pairs of the batch. Of no pair at all it is 0, with zero gradients.

    Args:
        image_embeddings: floating (B,D), rows of length 1. All is computed in
            float32.
        text_embeddings: floating (B,D), rows of length 1; row i belongs to
            image i.
        logit_scale: scalar, the exponential taken already.
        logit_bias: scalar, or `None` for 0. It cancels out of `"softmax"`.
        kind: `"sigmoid"` or `"softmax"`.
        captions: `None` (all differ) or integers (B,) or (B,L), such as token
            ids: two captions are the same if all their numbers are equal.
        same_caption: what image i and text j ≠ i of the same caption are:
            `"positive"` (a pair like i and i), `"ignore"` (in no sum, nor in
            the denominators of softmax) or `"negative"` (captions are not
            looked at).
        mask: `None` or Boolean (B,), the pairs that count. Others are neither
            rows nor columns, may hold NaN, and get zero gradients.
        chunk_size: `None`, or the rows of the logits that are held at a time.
            Loss and gradients are the same without any array (B,B); softmax
            computes the logits twice.

    Raises:
        ValueError: for an argument that does not fit.

    On JAX, arrays under `keras.distribution` are global: each image of each
    device is compared with the texts of all devices, in chunks too. On PyTorch
    each process of `DistributedDataParallel` compares what it is given:
    `keras_moe.distribution.gather_batch` gathers the batches of all.

    Example:

    >>> import numpy as np
    >>> from keras_moe.losses import contrastive_loss
    >>> images = texts = np.eye(3, dtype="float32")
    >>> loss = contrastive_loss(images, texts, 10.0, -5.0, kind="sigmoid")
    >>> print(f"{float(loss):.4f}")
    0.0201
    """
    checks.choice("kind", kind, KINDS)
    checks.choice("same_caption", same_caption, SAME_CAPTIONS)
    checks.optional_integer("chunk_size", chunk_size)
    images = _embeddings("image_embeddings", image_embeddings)
    texts = _embeddings("text_embeddings", text_embeddings)
    if not _agree(images.shape, texts.shape):
        raise ValueError(
            "text_embeddings must have the shape of image_embeddings, "
            f"{tuple(images.shape)}; received {tuple(texts.shape)}."
        )
    captions = _of_pairs("captions", captions, "integers (B,) or (B,L)", images)
    mask = _of_pairs("mask", mask, "Boolean (B,)", images)
    images, texts = (ops.cast(x, "float32") for x in (images, texts))  # (B,D)
    scale = ops.cast(logit_scale, "float32")
    bias = scalar(0.0, "float32")
    if logit_bias is not None:
        bias = bias + ops.cast(logit_bias, "float32")
    if mask is not None:
        images, texts = (keep(mask[:, None], x) for x in (images, texts))
    # The bias cancels out of softmax.
    arrays = (images, texts, scale, *[bias] * (kind == "sigmoid"))
    if images.shape[0] == 0:
        return sum(ops.sum(x) for x in (*arrays, bias)) * 0.0
    if same_caption == "negative":
        captions = None
    if captions is not None:
        captions = _numbered(captions)
    batch = ops.shape(images)[0]
    index = ops.arange(0, batch, dtype="int32")
    pairs = all_pairs.Pairs(index, captions, mask)
    summed = KINDS[kind](same_caption)
    if chunk_size is None:
        total = all_pairs.whole(summed, arrays, pairs)
    else:
        total = all_pairs.in_chunks(summed, arrays, pairs, chunk_size)
    if mask is None:
        number = ops.cast(batch, "float32")
    else:
        number = ops.sum(ops.cast(mask, "float32"))
    number = ops.maximum(number, scalar(1.0, "float32"))
    if kind == "softmax":
        if same_caption == "positive" and captions is not None:
            texts = _means(texts, pairs)
        # Rows that are masked are zero.
        total = 0.5 * total - ops.sum(images * texts) * scale + 0.0 * bias
    return total / number


def _embeddings(name, array):
    array = ops.convert_to_tensor(array)
    floating = keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(array.dtype)
    )
    if len(array.shape) != 2 or not floating:
        raise ValueError(
            f"{name} must be a floating array (B,D); {_given(array)}."
        )
    return array


def _of_pairs(name, array, expected, images):
    """Return an array of numbers of the pairs, or `None`."""
    if array is None:
        return None
    array = ops.convert_to_tensor(array)
    dtype = keras.backend.standardize_dtype(array.dtype)
    if name == "mask":
        fits = dtype == "bool" and len(array.shape) == 1
    else:
        fits = "int" in dtype and len(array.shape) in (1, 2)
    if not fits or not _agree(array.shape[:1], images.shape[:1]):
        raise ValueError(
            f"{name} must be {expected} of {images.shape[0]} pairs; "
            f"{_given(array)}."
        )
    return array


def _agree(shape, other):
    """Whether sizes are equal as far as they are known."""
    return all(a is None or b is None or a == b for a, b in zip(shape, other))


def _given(array):
    dtype = keras.backend.standardize_dtype(array.dtype)
    return f"received {dtype} of shape {tuple(array.shape)}"


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

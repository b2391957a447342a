"""Sums over all pairs of an image and a text, of functions of their logits.

    logits = scale · images · textsᵀ [+ bias],   (B,D), (B,D) -> (B,B)

`arrays` are what is derived, float32: images (B,D), texts (B,D), scale () and,
if there is one, bias ().

`whole` holds arrays (B,B), and autodiff derives it. `in_chunks` computes some
rows at a time. As a sum is one number, the gradient by the logits of a chunk
is known as soon as they are: the gradients by the embeddings (B,D) add up in
the same loop and are kept, and the backward pass multiplies them by a number.
"""

import dataclasses
import importlib
from typing import Any

import keras
from keras import ops

from keras_moe.ops.pairs.kinds import Pairs
from keras_moe.ops.pairs.kinds import Sigmoid
from keras_moe.ops.pairs.kinds import Softmax

__all__ = ["Pairs", "Sigmoid", "Softmax", "in_chunks", "whole"]

backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


@dataclasses.dataclass(frozen=True)
class Context:
    """Holds what is not derived.

    Attributes:
        kind: a `Sigmoid` or `Softmax`.
        size: bound of the rows of a chunk.
        pairs: `Pairs` (B,).
    """

    kind: Any
    size: int
    pairs: Any


backend.register(Context, static=("kind", "size"), arrays=("pairs",))


def whole(kind, arrays, pairs):
    """Compute the sum of a `Sigmoid` or `Softmax`: float32 ()."""
    state = kind.add(kind.start(pairs), _logits(*arrays), pairs, pairs)
    return kind.finish(state, pairs)


def in_chunks(kind, arrays, pairs, size):
    """Compute `whole` from at most `size` rows of the logits at a time."""
    return _differentiable(arrays, Context(kind, size, pairs))


def _logits(images, texts, scale, *bias):
    """Logits of each row with each column: (R,B)."""
    # Numbers of (R,D) are fewer than those of the product.
    return sum(bias, ops.matmul(images * scale, ops.transpose(texts)))


def _total(arrays, context):
    """The sum, to be derived by autodiff: second derivatives, forward mode."""
    kind, pairs = context.kind, context.pairs
    images, *others = arrays
    chunks = _Chunks(images, pairs, context.size)

    def step(chunk, state):
        rows, images = chunks.rows(chunk)
        return kind.add(state, _logits(images, *others), rows, pairs)

    state = backend.loop(chunks.number, step, kind.start(pairs))
    return kind.finish(state, pairs)


def _forward(arrays, context):
    """The sum, and what its gradients are made of."""
    kind, pairs = context.kind, context.pairs
    images, *others = arrays
    texts, _, *bias = others
    chunks = _Chunks(images, pairs, context.size)
    zero, known = kind.start(pairs)

    def look(chunk, known):
        rows, images = chunks.rows(chunk)
        return kind.add_columns(known, _logits(images, *others), rows, pairs)

    if kind.needs_columns:
        known = backend.loop(chunks.number, look, known)

    def step(chunk, state):
        total, by_bias, products = state
        rows, images = chunks.rows(chunk)
        here, gradient = kind.gradient(
            _logits(images, *others), rows, pairs, known
        )
        products = backend.add(products, chunk, gradient, images, texts)
        by_bias = tuple(one + ops.sum(gradient) for one in by_bias)
        return total + here, by_bias, products

    start = zero, (zero,) * len(bias), backend.products(chunks.images, texts)
    total, by_bias, products = backend.loop(chunks.number, step, start)
    by_images, by_texts = backend.joined(products)
    by_images = ops.reshape(by_images, (-1, images.shape[1]))
    by_images = by_images[: ops.shape(images)[0]]
    by_scale = ops.sum(by_images * images)
    saved = by_images, by_texts, by_scale, *by_bias
    return kind.finish((total, known), pairs), saved


def _backward(arrays, context, saved, grad):
    by_images, by_texts, *by_numbers = saved
    factor = grad * arrays[2]
    by_numbers = (one * grad for one in by_numbers)
    return by_images * factor, by_texts * factor, *by_numbers


_differentiable = backend.with_gradient(_total, _forward, _backward)


class _Chunks:
    """N chunks of R rows; chunk k has the rows r·N + k of the batch.

    So of devices that hold consecutive rows each holds some of every chunk.

    Args:
        images: (B,D).
        pairs: `Pairs` (B,).
        size: bound of R.
    """

    def __init__(self, images, pairs, size):
        batch, features = ops.shape(images)
        self.number = -(-batch // size)
        length = -(-batch // self.number)
        padding = length * self.number - batch
        if not isinstance(padding, int) or padding:
            if pairs.mask is None:
                mask = ops.ones_like(pairs.index, dtype="bool")
                pairs = pairs._replace(mask=mask)
            images, pairs = _each(
                lambda x: ops.pad(
                    x, ((0, padding), *((0, 0),) * (len(x.shape) - 1))
                ),
                (images, pairs),
            )
        self.images = ops.reshape(images, (length, self.number, features))
        self.pairs = _each(
            lambda x: ops.reshape(x, (length, self.number)), pairs
        )

    def rows(self, chunk):
        """Take the `Pairs` (R,) and the images (R,D) of a chunk."""
        return _each(lambda x: x[:, chunk], (self.pairs, self.images))


def _each(function, structure):
    return keras.tree.map_structure(function, structure, none_is_leaf=False)

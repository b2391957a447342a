"""Contrastive losses against plain numpy, whole and in chunks of rows."""

import numpy as np
import pytest
from keras import ops

from keras_moe.contrastive import KINDS
from keras_moe.contrastive import SAME_CAPTIONS
from keras_moe.losses import contrastive_loss
from tests import support

PAIRS, FEATURES = 7, 3
# Equal in both columns: pairs 0 and 5, and 1, 2 and 6; 3 and 4 in one alone.
CAPTIONS = np.array([[2, 9], [5, 1], [5, 1], [2, 1], [7, 1], [2, 9], [5, 1]])
MASK = np.array([True, True, True, True, False, True, False])


def draw(pairs=PAIRS, dtype="float32"):
    """Embeddings, scale and bias."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, pairs, FEATURES))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    embeddings = embeddings.astype(dtype)
    return [*embeddings, np.float32(4.0), np.float32(-1.5)]


def expected(arrays, kind, captions=None, same_caption="positive", mask=None):
    """Both formulas in float64, pair by pair."""
    images, texts, scale, bias = (np.asarray(a, "float64") for a in arrays)
    shown = range(len(images)) if mask is None else np.flatnonzero(mask)
    if captions is None:
        captions = np.arange(len(images))
    logits, positive, seen = {}, {}, {}
    for i in shown:
        for j in shown:
            logits[i, j] = scale * images[i] @ texts[j] + bias
            same = np.array_equal(captions[i], captions[j])
            positive[i, j] = i == j or (same and same_caption == "positive")
            seen[i, j] = i == j or not same or same_caption != "ignore"
    total = 0.0
    for i in shown:
        if kind == "sigmoid":
            for j in shown:
                z = 1 if positive[i, j] else -1
                total += seen[i, j] * np.log1p(np.exp(-z * logits[i, j]))
            continue
        for line in ([(i, j) for j in shown], [(j, i) for j in shown]):
            below = sum(np.exp(logits[at]) for at in line if seen[at])
            chosen = [np.log(below) - logits[at] for at in line if positive[at]]
            total += 0.5 * np.mean(chosen)
    return total / len(shown)


def changes(arrays, **options):
    """Gradients of the formulas, by small steps."""
    grads = []
    for number, array in enumerate(arrays):
        grad = np.zeros(np.shape(array))
        for place in np.ndindex(grad.shape):
            steps = []
            for step in (1e-5, -1e-5):
                moved = [np.array(a, "float64") for a in arrays]
                moved[number][place] += step
                steps.append(expected(moved, **options))
            grad[place] = (steps[0] - steps[1]) / 2e-5
        grads.append(grad)
    return grads


def loss(captions=None, mask=None, **options):
    def function(images, texts, scale, bias):
        given = (
            None if x is None else ops.convert_to_tensor(x)
            for x in (captions, mask)
        )
        captions_given, mask_given = given
        return contrastive_loss(
            images,
            texts,
            scale,
            bias,
            captions=captions_given,
            mask=mask_given,
            **options,
        )

    return function


def assert_both_forms(arrays, chunk_size, given=None, **options):
    """Value and gradients of both forms are those of the formulas."""
    for size in (None, chunk_size):
        assert_form(arrays, size, given, **options)


def assert_form(arrays, chunk_size, given=None, **options):
    value, grads = expected(arrays, **options), changes(arrays, **options)
    found, own = support.value_and_grads(
        loss(chunk_size=chunk_size, **options), *(given or arrays)
    )
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    for one, other in zip(own, grads):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("same_caption", SAME_CAPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_repeated_captions_and_masked_pairs(kind, same_caption):
    """NaN stands where the mask is false, and gets gradients of zero."""
    arrays = draw()
    poisoned = [a.copy() for a in arrays]
    for array in poisoned[:2]:
        array[~MASK] = np.nan
    assert_both_forms(
        arrays,
        3,
        poisoned,
        kind=kind,
        captions=CAPTIONS,
        same_caption=same_caption,
        mask=MASK,
    )


@pytest.mark.parametrize(
    "kind, chunk_size", [("sigmoid", 1), ("sigmoid", 100), ("softmax", 4)]
)
def test_sizes_of_chunks(kind, chunk_size):
    """Also such as do not divide the pairs; captions of one number."""
    options = {"kind": kind, "captions": CAPTIONS[:, 0]}
    assert_form(draw(), chunk_size, **options)


def test_one_pair():
    assert_form(draw(1), None, kind="sigmoid")
    assert_form(draw(1), 2, kind="softmax")


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_pair_at_all(kind, chunk_size):
    """An empty batch, and one that is masked."""
    function = loss(kind=kind, chunk_size=chunk_size)
    hidden = loss(kind=kind, chunk_size=chunk_size, mask=np.zeros(3, bool))
    for one, arrays in ((function, draw(0)), (hidden, draw(3))):
        value, grads = support.value_and_grads(one, *arrays)
        assert value == 0.0
        for grad in grads:
            np.testing.assert_array_equal(grad, np.zeros_like(grad))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    """Read as they are; all else is float32."""
    arrays = draw()

    def function(images, texts, scale, bias):
        images, texts = (ops.cast(x, dtype) for x in (images, texts))
        rounded = [ops.cast(x, "float32") for x in (images, texts)]
        both = [
            loss(kind="softmax", chunk_size=size)(images, texts, scale, bias)
            for size in (None, 3)
        ]
        return both, rounded

    both, rounded = support.run(function, *arrays)
    wanted = expected([*rounded, *arrays[2:]], "softmax")
    for value in both:
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_second_derivatives_of_chunks():
    """The gradient of the gradient's sum of squares is that of the whole."""
    arrays = [ops.convert_to_tensor(a) for a in draw(4)]

    def second(chunk_size):
        function = loss(kind="sigmoid", chunk_size=chunk_size)
        if support.BACKEND == "jax":
            import jax

            first = jax.grad(function, argnums=(0, 1, 2, 3))
            again = jax.grad(
                lambda *a: sum(ops.sum(g * g) for g in first(*a)),
                argnums=(0, 1, 2, 3),
            )
            return jax.jit(again)(*arrays)
        if support.BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as outer:
                outer.watch(arrays)
                with tf.GradientTape() as inner:
                    inner.watch(arrays)
                    value = function(*arrays)
                grads = inner.gradient(value, arrays)
                value = sum(ops.sum(g * g) for g in grads)
            return outer.gradient(value, arrays)
        import torch

        inputs = [a.clone().requires_grad_() for a in arrays]
        grads = torch.autograd.grad(
            function(*inputs), inputs, create_graph=True
        )
        return torch.autograd.grad(sum(ops.sum(g * g) for g in grads), inputs)

    for one, other in zip(second(2), second(None)):
        one, other = support.numpy(one), support.numpy(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert np.abs(other).max() > 1e-4


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize(
    "kind, value", [("sigmoid", 3 * np.log(2)), ("softmax", np.log(3))]
)
def test_equal_logits(kind, value, chunk_size):
    """log 2 for each of 9 pairs, over 3; log 3 for each choice of 3."""
    found = support.run(
        lambda x: contrastive_loss(x, x, 5.0, kind=kind, chunk_size=chunk_size),
        np.zeros((3, 2), "float32"),
    )
    np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_any_size(kind):
    """A graph of TensorFlow does not know the number of pairs."""

    def function(*arrays):
        return contrastive_loss(
            *arrays,
            kind=kind,
            captions=ops.zeros_like(arrays[0], "int32"),
            same_caption="ignore",
            chunk_size=3,
        )

    if support.BACKEND == "tensorflow":
        import tensorflow as tf

        rows = tf.TensorSpec((None, FEATURES), "float32")
        number = tf.TensorSpec((), "float32")
        function = tf.function(
            function, input_signature=(rows, rows, number, number)
        )
    for pairs in (7, 1):
        arrays = draw(pairs)
        wanted = expected(arrays, kind, np.zeros((pairs, 1)), "ignore")
        found = function(*map(ops.convert_to_tensor, arrays))
        np.testing.assert_allclose(support.numpy(found), wanted, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"kind": "clip"}, "kind must be one of 'sigmoid', 'softmax'; rec"),
        ({"same_caption": 1}, "same_caption must be one of 'positive', 'ign"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1; re"),
        ({"chunk_size": 2.0}, "chunk_size must be an integer of at least 1"),
        (
            {"image_embeddings": np.zeros((2, 3), "int32")},
            r"image_embeddings must be a floating array \(B,D\); received int",
        ),
        (
            {"text_embeddings": np.zeros((4, 3), "float32")},
            r"text_embeddings must have the shape of image_embeddings, \(2, 3",
        ),
        (
            {"captions": np.zeros(3, "int32")},
            r"captions must be integers \(B,\) or \(B,L\) of 2 pairs; received",
        ),
        (
            {"captions": np.zeros(2, "float32")},
            "captions must be integers .* received float32 of shape",
        ),
        (
            {"mask": np.ones(2, "int32")},
            r"mask must be Boolean \(B,\) of 2 pairs; received int32 of sha",
        ),
    ],
)
def test_arguments_that_do_not_fit(changed, message):
    given = {
        "image_embeddings": np.zeros((2, 3), "float32"),
        "text_embeddings": np.zeros((2, 3), "float32"),
        "logit_scale": 1.0,
        "kind": "sigmoid",
    }
    with pytest.raises(ValueError, match=f"^{message}"):
        contrastive_loss(**{**given, **changed})

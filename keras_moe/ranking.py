"""Largest entries of an axis, in operators that every exporter takes."""

import keras
from keras import ops

from keras_moe.scalars import keep
from keras_moe.scalars import scalar

NONE = -1e30  # no entry
HALVINGS = 26  # of the interval in which a value is searched
PASSES = 8  # up to so many maxima are quicker than a ranking


def largest(values, number, most):
    """Find the `number` largest entries above `NONE` of the last axis.

    Args:
        values: float32 (...,N), N at most 2^24.
        number: int32 (...,1).
        most: bounds `number`.

    Returns:
        Where they are (ties to the earlier), the least of them, and the
        largest of the others, `NONE` if there is no such entry.
    """
    if keras.backend.backend() == "jax":
        last, after = _by_halving(values, number)
    else:
        last, after = _by_ranking(values, number, most)
    equal = ops.logical_and(values == last, last > NONE)
    turn = ops.cumsum(ops.cast(equal, "int32"), axis=-1)
    more = number - count(values > last)
    # No ops.where of Booleans, which ONNX Runtime does not run.
    tied = ops.logical_and(equal, turn <= more)
    return ops.logical_or(values > last, tied), last, after


def _by_ranking(values, number, most):
    size = ops.shape(values)[-1]
    if isinstance(most, int) and isinstance(size, int):
        length = min(most + 1, size)
    else:
        length = ops.minimum(most + 1, size)
    ranked, _ = ops.top_k(values, length)
    place = ops.relu(number - 1)
    last = ops.take_along_axis(ranked, place, axis=-1)
    place = at_most(number, length - 1)
    after = ops.take_along_axis(ranked, place, axis=-1)
    return last, where(number < size, after, NONE)


def _by_halving(values, number):
    """Do as `_by_ranking`, up to 2^-26 of the span of the values.

    TensorFlow does not read JAX's top_k from files, and XLA's sort is slow.
    """
    number = ops.cast(number, values.dtype)

    def above(bound):
        # Of float32: it is quicker than of integers.
        bits = ops.cast(values > bound, values.dtype)
        return ops.sum(bits, axis=-1, keepdims=True)

    high = ops.amax(values, axis=-1, keepdims=True)
    low = ops.where(values > NONE, values, high)
    low = ops.amin(low, axis=-1, keepdims=True)
    low = 2 * low - high - 1e-6  # less than all values, if these are equal too

    def halve(low, high):
        middle = (low + high) * 0.5
        enough = above(middle) >= number
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    low, _ = ops.while_loop(
        lambda *_: True, halve, (low, high), maximum_iterations=HALVINGS
    )
    last = ops.amin(where(values > low, values, -NONE), axis=-1, keepdims=True)
    after = ops.amax(where(values < last, values, NONE), axis=-1, keepdims=True)
    bits = ops.cast(values >= last, values.dtype)
    many = ops.sum(bits, axis=-1, keepdims=True) > number
    return last, ops.where(many, last, after)


def top(values, number):
    """Find the `number` largest entries above `NONE` of axis 1 of (G,E,T).

    Returns where they are (ties to the earlier), and a list of values (G,1,T),
    of which the last two are right, the least and the next larger one.
    """
    if number > PASSES:
        turned = ops.transpose(values, (0, 2, 1))
        some = ops.zeros_like(turned[:, :, :1], dtype="int32") + number
        chosen, last, _ = largest(turned, some, number)
        _, before, _ = largest(turned, some - 1, number)
        ranked = [ops.transpose(x, (0, 2, 1)) for x in (before, last)]
        return ops.transpose(chosen, (0, 2, 1)), ranked
    place = ops.arange(0, values.shape[1], dtype="int32")[:, None]  # (E,1)
    chosen, ranked = values > -NONE, []
    for _ in range(number):
        # Not ops.argmax: see routing.best_expert.
        best = ops.amax(values, axis=1, keepdims=True)
        first = where(values == best, place, values.shape[1])
        is_first = place == ops.amin(first, axis=1, keepdims=True)
        chosen = ops.logical_or(
            chosen, ops.logical_and(is_first, values > NONE)
        )
        values = where(is_first, NONE, values)
        ranked.append(best)
    return chosen, ranked


def count(entries, axis=-1):
    """Count the true entries along an axis, which stays."""
    return total(ops.cast(entries, "int32"), axis)


def total(entries, axis=-1):
    """Add up an axis, which stays."""
    return ops.sum(entries, axis=axis, keepdims=True)


def where(condition, one, other):
    """`ops.where` of an array and a number, on either side."""
    if isinstance(one, (int, float)):
        return ops.where(condition, scalar(one, other.dtype), other)
    return keep(condition, one, other)


def at_most(values, bound):
    """Limit an array to a number."""
    return ops.minimum(values, scalar(bound, values.dtype))

"""Orders of the last axis, the same on all backends where entries tie."""

import keras
from keras import ops

# Up to so many of the largest are found one after another on JAX.
FEW = 16


def ascending(x):
    """Sort indices of the last axis from small to large, ties in order."""
    # Keras' argsort keeps the order of ties on all three backends, which
    # torch.topk does not; tests/test_routing.py holds it to that.
    return ops.argsort(x, axis=-1)


def descending(x):
    """Sort indices of the last axis from large to small, ties in order."""
    return ascending(-x)


def largest(values, number: int):
    """Find indices of the `number` largest of the last axis, ties to the first.

    int32, from the largest on. No value may be -inf.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return ops.top_k(values, number)[1]
    if backend == "jax" and number <= FEW:
        # A sort takes longer, and other runtimes do not know JAX's top_k.
        return _one_after_another(values, number)
    return ops.cast(descending(values)[..., :number], "int32")


def _one_after_another(values, number):
    places = ops.arange(0, values.shape[-1], dtype="int32")
    indices = []
    for _ in range(number):
        # Not argmax, in which Keras puts a bit cast that ONNX lacks.
        best = ops.max(values, axis=-1, keepdims=True)
        # NaN equals nothing; the last place has it, or the others have none.
        index = ops.where(values == best, places, values.shape[-1] - 1)
        index = ops.min(index, axis=-1, keepdims=True)
        indices.append(index)
        values = ops.where(places == index, -float("inf"), values)
    return ops.concatenate(indices, axis=-1)

"""The order of the two runs where a compiler decides on it."""

import keras
from keras import ops


def behind(values, tensors, grads):
    """Let inputs of the second run depend on the gradients, which add 0.

    Otherwise compilers find that both runs are equal and compute one, or
    compute the second one early, with memory for its activations until the
    gradients come. XLA drops its own barriers on CPUs. Floating values stay
    as they are: what is computed of kernels alone may be kept.

    Args:
        values: of variables. Integers are states of random seeds.
        tensors: inputs.
        grads: gradients of the results that are floating.

    Returns:
        The values and the tensors.
    """
    # No compiler knows that this is 0, or NaN where a gradient is NaN.
    parts = [
        ops.minimum(ops.abs(ops.reshape(grad, (-1,))[:1]), 0) for grad in grads
    ]
    zero = sum(ops.sum(ops.cast(part, "float32")) for part in parts)

    def tied(array, kinds):
        dtype = keras.backend.standardize_dtype(array.dtype)
        if not any(kind in dtype for kind in kinds):
            return array
        return array + ops.cast(zero, dtype)

    return (
        [tied(value, ("int",)) for value in values],
        [tied(tensor, ("int", "float")) for tensor in tensors],
    )

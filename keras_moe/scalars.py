"""Numbers as tensors that are made on the device."""

from keras import ops

MASKED = -1e30  # a logit that no softmax sees; finite, so are its gradients


def scalar(value, dtype):
    """Make a tensor () of a number where other tensors are made.

    `keras.ops` copy a Python number that meets a tensor from the host on
    PyTorch. On a GPU the host waits for that copy, and so for all that runs.
    """
    return ops.zeros((), dtype) + value


def keep(condition, values, otherwise=0.0):
    """Take values where the condition holds, elsewhere a number.

    Not a product: 0 · NaN is NaN, in the gradient too.
    """
    return ops.where(condition, values, scalar(otherwise, values.dtype))

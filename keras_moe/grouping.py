"""Split tokens into routing groups: (B,N,D) to (G,T,D), and back.

B sequences of a batch, N tokens of a sequence; G groups, T tokens of a group, D
features. Every function returns `(tokens, mask, restore)`, where
`restore(outputs)` undoes the grouping of an array shaped like `tokens`.
"""

import math

from keras import ops


def flatten(inputs, mask=None):
    """Make one token axis of all axes between the first and the last.

    Rows (B,D) are the tokens of one group.
    """
    shape = ops.shape(inputs)
    if len(shape) == 2:
        mask = None if mask is None else mask[None]
        return inputs[None], mask, lambda outputs: outputs[0]
    if len(shape) == 3:
        return inputs, mask, lambda outputs: outputs
    tokens = math.prod(shape[1:-1])
    inputs = ops.reshape(inputs, (-1, tokens, shape[-1]))
    if mask is not None:
        mask = ops.reshape(mask, (-1, tokens))
    axes = shape[:-1]
    return (
        inputs,
        mask,
        lambda outputs: ops.reshape(outputs, (*axes, outputs.shape[-1])),
    )


def runs(inputs, mask, group_size: int):
    """Cut the tokens of the whole batch, in order, into runs.

    A group may hold a part of a sequence or span several. Masked zeros
    complete the last one, if it is short.

    Args:
        inputs: (B,N,D).
        mask: `None` or (B,N).
        group_size: T.
    """
    shape = ops.shape(inputs)
    static = isinstance(shape[0], int) and isinstance(shape[1], int)
    whole = static and shape[0] * shape[1] % group_size == 0
    if not whole:
        inputs = ops.reshape(inputs, (1, -1, shape[-1]))
        mask = None if mask is None else ops.reshape(mask, (1, -1))
        inputs, mask = _complete(inputs, mask, group_size, True, axis=1)
    tokens = ops.reshape(inputs, (-1, group_size, shape[-1]))  # (G,T,D)
    if mask is not None:
        mask = ops.reshape(mask, (-1, group_size))

    def restore(outputs):
        if not whole:
            outputs = ops.reshape(outputs, (-1, shape[-1]))
            outputs = outputs[: shape[0] * shape[1]]
        return ops.reshape(outputs, shape)

    return tokens, mask, restore


def across_batch(inputs, mask, group_size: int, pad_masked: bool = True):
    """Group the tokens at one position of `group_size` consecutive sequences.

    If the batch is no multiple of `group_size`, rows of zeros complete it.

    Args:
        inputs: (B,N,D).
        mask: `None` or (B,N).
        group_size: T.
        pad_masked: whether the zero rows are masked, or tokens like others.
    """
    batch, length, _ = ops.shape(inputs)
    inputs, mask = _complete(inputs, mask, group_size, pad_masked, axis=0)
    features = inputs.shape[-1]

    # (B,N,...) -> (B/T,T,N,...) -> (B/T,N,T,...) -> (G,T,...)
    tokens = ops.reshape(inputs, (-1, group_size, length, features))
    tokens = ops.transpose(tokens, (0, 2, 1, 3))
    tokens = ops.reshape(tokens, (-1, group_size, features))
    if mask is not None:
        mask = ops.reshape(mask, (-1, group_size, length))
        mask = ops.transpose(mask, (0, 2, 1))
        mask = ops.reshape(mask, (-1, group_size))

    def restore(outputs):
        outputs = ops.reshape(outputs, (-1, length, group_size, features))
        outputs = ops.transpose(outputs, (0, 2, 1, 3))
        outputs = ops.reshape(outputs, (-1, length, features))
        return outputs[:batch]

    return tokens, mask, restore


def along_sequence(inputs, mask, group_size: int, pad_masked: bool = True):
    """Group `group_size` consecutive tokens of one sequence.

    If the sequence is no multiple of `group_size`, zeros complete it.

    Args:
        inputs: (B,N,D).
        mask: `None` or (B,N).
        group_size: T.
        pad_masked: whether the zeros are masked, or tokens like others.
    """
    length = ops.shape(inputs)[1]
    inputs, mask = _complete(inputs, mask, group_size, pad_masked, axis=1)
    padded, features = ops.shape(inputs)[1], inputs.shape[-1]
    tokens = ops.reshape(inputs, (-1, group_size, features))  # (G,T,D)
    if mask is not None:
        mask = ops.reshape(mask, (-1, group_size))

    def restore(outputs):
        outputs = ops.reshape(outputs, (-1, padded, features))
        return outputs[:, :length]

    return tokens, mask, restore


def alone(inputs, mask):
    """Make every token a group of its own: (B,N,D) -> (B·N,1,D)."""
    shape = ops.shape(inputs)
    tokens = ops.reshape(inputs, (-1, 1, shape[-1]))
    mask = None if mask is None else ops.reshape(mask, (-1, 1))
    return tokens, mask, lambda outputs: ops.reshape(outputs, shape)


def _complete(inputs, mask, group_size, pad_masked, axis):
    """Append zeros up to a multiple of `group_size`, masked or not."""
    shape = list(ops.shape(inputs))
    # So written that jax sees the multiple of group_size where the size is a
    # symbol, and that ONNX, which divides towards zero, gets it right too.
    groups = (shape[axis] + group_size - 1) // group_size
    missing = groups * group_size - shape[axis]
    if isinstance(missing, int) and missing == 0:
        return inputs, mask
    if mask is None and pad_masked:
        mask = ops.ones(shape[:2], dtype="bool")
    shape[axis] = missing
    zeros = ops.zeros(shape, dtype=inputs.dtype)
    inputs = ops.concatenate([inputs, zeros], axis=axis)
    if mask is not None:
        fill = ops.zeros if pad_masked else ops.ones
        mask = ops.concatenate([mask, fill(shape[:2], "bool")], axis=axis)
    return inputs, mask

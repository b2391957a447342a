"""Checks of the tensors that layers are called on."""

import keras
from keras import ops


def check_mask(mask, inputs):
    """Return `mask` as a Boolean tensor, checked against `inputs`."""
    mask = ops.convert_to_tensor(mask)
    expected = tuple(inputs.shape[:-1])
    if not _fits(mask, expected):
        raise ValueError(
            "mask must have the shape of inputs without the features, "
            f"{expected}; received shape {tuple(mask.shape)}."
        )
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if "float" in dtype:
        raise ValueError(
            "mask must be Boolean, or integers that are 0 where a token is "
            f"masked; received {dtype}."
        )
    return ops.cast(mask, "bool")


def check_places(places, inputs):
    """Return `places` as an int32 tensor, checked against `inputs` (B,T,D)."""
    places = ops.convert_to_tensor(places)
    batch, length = inputs.shape[:2]
    dtype = keras.backend.standardize_dtype(places.dtype)
    fits = _fits(places, (batch, length)) or _fits(places, (1, length))
    if not fits or "int" not in dtype:
        raise ValueError(
            "places must be integers of shape (batch, tokens) or (1, tokens), "
            f"{(batch, length)} here; received {dtype} of shape "
            f"{tuple(places.shape)}."
        )
    return ops.cast(places, "int32")


def _fits(tensor, expected):
    shape = tuple(tensor.shape)
    return len(shape) == len(expected) and all(
        a == b for a, b in zip(shape, expected) if None not in (a, b)
    )

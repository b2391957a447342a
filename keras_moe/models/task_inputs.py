"""Inputs of tasks, checked before use."""

import numbers
import reprlib
import types

import keras
import numpy as np

# What neither `fit` nor `predict` reads, and no data set is.
_NEVER = (
    type(None),
    bytes,
    numbers.Number,
    set,
    frozenset,
    range,
    types.FunctionType,
)


def received(value) -> str:
    """Describe a value in short: a text may have megabytes."""
    return f"received {reprlib.repr(value)} ({type(value).__name__})"


def check_texts(name: str, value, one: bool = False) -> None:
    """Raise an error unless `value` may hold texts.

    Args:
        name: of the argument.
        value: what came. Data sets and tensors of strings pass.
        one: whether a single text fits, and a tuple.
    """
    kind = "a text or a list" if one else "a list"
    expected = f"{name} must be {kind} of at least one text"
    if isinstance(value, str):
        fits = one
    elif isinstance(value, (list, tuple)):
        fits = len(value) > 0 and (one or isinstance(value, list))
        for index, text in enumerate(value):
            if fits and not isinstance(text, str):
                raise ValueError(
                    f"{expected}; {received(text)} at index {index}."
                )
    elif isinstance(value, (*_NEVER, dict, types.GeneratorType)):
        fits = False
    elif isinstance(value, np.ndarray):
        fits = value.dtype.kind in "USOT" and value.size > 0
        fits = fits and value.ndim in ((0, 1) if one else (1,))
    else:
        fits = "string" in str(getattr(value, "dtype", "string"))
    if not fits:
        raise ValueError(f"{expected}; {received(value)}.")


def token_ids(name: str, value):
    """Ids that a tokenizer is to read, as Python's integers.

    Args:
        name: of the argument.
        value: an id, a list of them, a list of such lists, or an array.

    Raises:
        ValueError: for anything else, and for ids below 0 or from 2^31 on.
    """
    expected = (
        f"{name} must be an id, a list of ids or a list of such lists, "
        "integers of at least 0"
    )
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu" or value.ndim > 2:
            raise ValueError(
                f"{expected}; received {value.dtype} of shape {value.shape}."
            )
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return _token_id(expected, value)
    nested = [
        one.tolist() if isinstance(one, np.ndarray) else one for one in value
    ]
    if any(isinstance(one, (list, tuple)) for one in nested):
        for one in nested:
            if not isinstance(one, (list, tuple)):
                raise ValueError(f"{expected}; {received(one)} among lists.")
        return [[_token_id(expected, i) for i in one] for one in nested]
    return [_token_id(expected, one) for one in nested]


def _token_id(expected, value) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 0 <= value < 2**31:
        raise ValueError(f"{expected}; {received(value)}.")
    return int(value)


def check_ids(name: str, value) -> None:
    """Raise an error unless `value` may hold a batch that is ready.

    Args:
        name: of the argument.
        value: what came. Data sets pass.
    """
    is_list = isinstance(value, (list, tuple))
    of_texts = is_list and (not value or isinstance(value[0], str))
    if of_texts or isinstance(value, (*_NEVER, str, np.ndarray)):
        raise ValueError(
            f"{name} must be a dictionary of arrays such as token_ids and "
            "padding_mask, or texts where the model has a preprocessor; "
            f"{received(value)}."
        )


def check_images(name: str, value, backbone, any_size: bool) -> None:
    """Raise an error unless `value` may hold images for a backbone.

    Args:
        name: of the argument.
        value: what came. Data sets, and dictionaries, pass.
        backbone: a `MoEViTBackbone`.
        any_size: whether the images are resized.
    """
    first = backbone.data_format == "channels_first"
    image_shape = list(backbone.image_shape)
    for axis, side in zip((1, 2) if first else (0, 1), ("height", "width")):
        image_shape[axis] = side if any_size else image_shape[axis]
    shown = ", ".join(str(side) for side in ["batch", *image_shape])
    expected = f"{name} must be a batch of at least one image, ({shown})"
    if isinstance(value, (*_NEVER, str)):
        raise ValueError(f"{expected}; {received(value)}.")
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"{expected}; received a {type(value).__name__} of images "
                "that do not have one size."
            ) from error
    if isinstance(value, np.ndarray) and value.dtype.kind not in "buifOV":
        raise ValueError(f"{expected}; received {value.dtype} for pixels.")
    shape = getattr(value, "shape", None)
    if shape is None:
        return
    found = tuple(shape)
    fits = len(found) == 4 and found[0] != 0
    if fits:
        pairs = zip(image_shape, found[1:])
        fits = all(a == b for a, b in pairs if not isinstance(a, str))
    if not fits:
        raise ValueError(f"{expected}; received shape {found}.")


def check_pixels(name: str, value) -> None:
    """Raise an error unless `value` may be an image, or a batch of them.

    Args:
        name: of the argument.
        value: what a preprocessor is given. Dictionaries with images pass.
    """
    expected = (
        f"{name} must be an image of three axes, or a batch of at least one"
    )
    if isinstance(value, tuple) and value:  # an image, and its label
        value = value[0]
    if isinstance(value, dict) and "images" in value:
        return
    if isinstance(value, list) and value:
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"{expected}; received a list of images that do not have one "
                "size."
            ) from error
    shape = getattr(value, "shape", None)
    if isinstance(value, (*_NEVER, str, list, tuple, dict)) or shape is None:
        raise ValueError(f"{expected}; {received(value)}.")
    if isinstance(value, np.ndarray) and value.dtype.kind not in "buif":
        raise ValueError(f"{expected}; received {value.dtype} for pixels.")
    # TensorFlow may not know it, inside `tf.data`.
    rank = shape.rank if hasattr(shape, "rank") else len(shape)
    if rank is not None and (rank not in (3, 4) or 0 in tuple(shape)):
        raise ValueError(f"{expected}; received shape {tuple(shape)}.")


class CheckedTask:
    """A task that checks its inputs first; it has `check_inputs(x)`."""

    def fit(self, x=None, *args, **kwargs):
        self.check_inputs(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):  # as `fit` calls it
            self.check_inputs(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self.check_inputs(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self.check_inputs(x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        self.check_inputs(x)
        return super().test_on_batch(x, *args, **kwargs)

    def predict_on_batch(self, x, *args, **kwargs):
        self.check_inputs(x)
        return super().predict_on_batch(x, *args, **kwargs)

"""What tasks are given: checked before anything is made of it."""

import numbers
import reprlib
import types

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
    """What came, in short: a text may have megabytes."""
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
    wanted = list(backbone.image_shape)
    for axis, side in zip((1, 2) if first else (0, 1), ("height", "width")):
        wanted[axis] = side if any_size else wanted[axis]
    shown = ", ".join(str(side) for side in ["batch", *wanted])
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
        pairs = zip(wanted, found[1:])
        fits = all(a == b for a, b in pairs if not isinstance(a, str))
    if not fits:
        raise ValueError(f"{expected}; received shape {found}.")


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

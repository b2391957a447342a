"""Images and captions, in the forms in which they are given to a task."""

import unicodedata
from collections import abc

import keras
import numpy as np

from keras_moe.models import task_inputs
from keras_moe.models.two_tower import encoding

# Categories of signs that show nothing: spaces, control, format.
BLANK = ("Zs", "Zl", "Zp", "Cc", "Cf")


def are_texts(value) -> bool:
    """Whether a value holds strings rather than numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "USOT"
    if isinstance(value, (list, tuple)) and len(value):
        return isinstance(value[0], (str, bytes))
    return isinstance(value, str) or (
        "string" in str(getattr(value, "dtype", ""))
    )


def split(x, captions=None):
    """(images, captions) of what was given; `None` for what was not.

    Args:
        x: images, captions, a pair of them, or a dictionary.
        captions: of images `x`, or `None`.
    """
    given = captions
    if isinstance(x, tuple) and len(x) == 2 and not are_texts(x):
        if captions is not None:
            raise ValueError(
                "captions must be given once; received (images, captions) "
                "and captions behind them."
            )
        x, captions = x
    if isinstance(x, dict):
        others = set(x) - {"images", "captions"}
        if others or given is not None or not x:
            raise ValueError(
                "x must be a dictionary with images, captions or both, and "
                f"nothing behind it; received one with {', '.join(sorted(x))}"
                f"{'' if given is None else ' and more behind it'}."
            )
        return x.get("images"), x.get("captions")
    if captions is None and are_texts(x):
        return None, x
    return x, captions


def no_weights(sample_weight) -> None:
    """Raise an error for weights of pairs, which the losses do not have."""
    if sample_weight is not None:
        raise ValueError(
            "sample_weight must be None, as each pair is compared with all "
            f"others; {task_inputs.received(sample_weight)}."
        )


def check_captions(name, captions) -> None:
    """Raise an error for texts that are none, and for empty ones.

    Args:
        name: of the argument.
        captions: a string, a list or an array of them. Tensors pass.
    """
    task_inputs.check_texts(name, captions, one=True)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, (list, tuple, np.ndarray)):
        return
    for index, caption in enumerate(np.ravel(captions).tolist()):
        if _is_blank(caption):
            raise ValueError(
                f"{name} must not be empty; received {caption!r} at index "
                f"{index}."
            )


def _is_blank(caption) -> bool:
    """Whether a text shows nothing: spaces, signs of control and format."""
    if isinstance(caption, bytes):
        caption = _decoded(caption)
    return all(unicodedata.category(sign) in BLANK for sign in caption)


def _decoded(text):
    # As TensorFlow reads bytes that are no UTF-8.
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def texts_of(name, captions) -> list[str]:
    """Texts as a list of strings.

    Args:
        name: of the argument.
        captions: a string, or a list, an array or a tensor of strings.

    Raises:
        ValueError: for what is none, and for empty texts.
    """
    if getattr(captions, "dtype", None) is not None:
        array = encoding.in_numpy(captions)
        if array.ndim > 1:
            raise ValueError(
                f"{name} must be a text or a list of them; received shape "
                f"{array.shape}."
            )
        captions = [_decoded(text) for text in np.ravel(array).tolist()]
    check_captions(name, captions)
    return [captions] if isinstance(captions, str) else list(captions)


def check_numbers(images, captions) -> None:
    """Raise an error if there are more images than captions, or fewer."""
    count = len(captions) if isinstance(captions, (list, tuple)) else None
    if isinstance(captions, np.ndarray) and captions.ndim:
        count = len(captions)
    shape = getattr(images, "shape", None)
    number = len(images) if isinstance(images, list) else shape and shape[0]
    if None not in (count, number) and count != number:
        raise ValueError(
            "images and captions must be as many; received "
            f"{number} images and {count} captions."
        )


def is_dataset(name, x) -> bool:
    """Tell whether `x` is a data set, and no array or structure of arrays.

    Args:
        name: of the argument.
        x: what came.

    Raises:
        ValueError: for a data set whose batches KerasHub cannot map, such as
            a `keras.utils.PyDataset` or a generator.
    """
    made_of_arrays = (dict, tuple, list, str, bytes)
    if isinstance(x, made_of_arrays) or getattr(x, "shape", None) is not None:
        return False
    packages = {kind.__module__.partition(".")[0] for kind in type(x).__mro__}
    if packages & {"tensorflow", "grain"}:
        return True
    if isinstance(x, (keras.utils.PyDataset, abc.Iterable)):
        raise ValueError(
            f"{name} must be arrays, or a tf.data.Dataset or a data set of "
            "grain with batches of them, which are made ready one by one; "
            f"received a {type(x).__name__}. tf.data.Dataset.from_generator "
            "makes a data set of it."
        )
    return False


def both(x, captions=None) -> dict:
    """The dictionary of images and captions that were given in any form."""
    images, captions = split(x, captions)
    if images is None or captions is None:
        missing = "images" if images is None else "captions"
        raise ValueError(
            f"{missing} must be given too: images and captions are a pair, as "
            "(images, captions) or a dictionary of both. encode_image and "
            "encode_text read one alone."
        )
    return {"images": images, "captions": captions}


def ready(x, y=None) -> dict:
    """`x`, a dictionary that a backbone reads; an error if it is none."""
    names = ("images", "padding_mask", "token_ids")
    if not isinstance(x, dict) or sorted(x) != list(names) or y is not None:
        found = (
            f"one with {', '.join(sorted(x))}"
            if isinstance(x, dict)
            else (type(x).__name__)
        )
        raise ValueError(
            f"x must be a dictionary of {', '.join(names)}, and nothing "
            "behind it, where the model has no preprocessor; received "
            f"{found}{'' if y is None else ' and more behind it'}."
        )
    return x

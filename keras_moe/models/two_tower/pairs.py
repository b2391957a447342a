"""Images and captions, in the forms in which they are given to a task."""

import keras
import numpy as np

from keras_moe.models import task_inputs


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
        if not caption.strip():
            raise ValueError(
                f"{name} must not be empty; received {caption!r} at index "
                f"{index}."
            )


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


def is_dataset(x) -> bool:
    """Tell whether `x` is a data set, and no array or structure of arrays."""
    return not isinstance(x, (dict, tuple, list, str, bytes, type(None))) and (
        not keras.ops.is_tensor(x) and not hasattr(x, "shape")
    )


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

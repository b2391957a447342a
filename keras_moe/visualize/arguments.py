"""Arguments of `report`: a page's path, a batch, a task's preprocessor."""

import os
import pathlib

import numpy as np

from keras_moe import checks


def page_path(path):
    """The path of a page that can be written, or an error that names it."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ValueError(
            f"path must be the name of a file; {checks.received(path)}."
        )
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"path must be of a file; {path} is a folder.")
    if not path.parent.is_dir():
        raise ValueError(
            f"path must be in a folder that exists; received {path}."
        )
    return path


def preprocessor(task):
    if task.preprocessor is None:
        raise ValueError(
            "model must have a preprocessor, which makes its inputs of the "
            f"batch; received a {type(task).__name__} without one. Its "
            "backbone and inputs made for that will do, "
            "report(model.backbone, inputs)."
        )
    return task.preprocessor


def images(batch, channels):
    """The batch as an array of images (n,H,W,channels)."""
    batch = checks.numbers_of("batch", batch)
    if batch.ndim != 4 or 0 in batch.shape or batch.shape[3] != channels:
        one = batch.ndim == 3 and batch.shape[2] == channels
        hint = "; of one image make a batch, image[None]" if one else ""
        raise ValueError(
            f"batch must be images of the shape (n,H,W,{channels}), one or "
            f"more; received shape {batch.shape}{hint}."
        )
    return batch


def texts(batch):
    """The batch as a list of texts."""
    if isinstance(batch, str):
        raise ValueError(
            f"batch must be a list of texts; received {batch!r} (str). Of one "
            "text make a list, [text]."
        )
    if isinstance(batch, np.ndarray):
        batch = batch.tolist()
    fits = isinstance(batch, (list, tuple)) and len(batch) > 0
    if not fits or not all(isinstance(text, str) for text in batch):
        raise ValueError(
            "batch must be a list of one text or more, each a string; "
            f"{checks.received(batch)}."
        )
    return list(batch)

"""Holding the logits of a written preset against expected ones."""

import contextlib
import zipfile

import keras
import numpy as np

from conversion.errors import ConversionError
from keras_moe import files

FORM = ".npz file of numpy.savez"


class _Arrays:
    """Arrays of an open file by name, each read on access.

    Attributes:
        names: set of their names.
    """

    def __init__(self, path, archive):
        self.path, self._archive = path, archive
        self.names = set(archive.files)

    def read(self, name, kinds="fiub", rank=None):
        """One array.

        Args:
            name: of the array.
            kinds: of its dtype, as `numpy.dtype.kind` has them.
            rank: number of its axes, `None` for any.

        Raises:
            ConversionError: for an array that is damaged, empty or of another
                form.
        """
        # Numbers alone are read: Python's objects would be unpickled.
        with files.decoding(self.path, FORM, ConversionError):
            array = self._archive[name]
        if not isinstance(array, np.ndarray):
            raise ConversionError(f"--verify {self.path}: {name} is no array.")
        if array.dtype.kind not in kinds:
            raise ConversionError(
                f"--verify {self.path}: {name} must hold numbers; it has "
                f"{array.dtype}."
            )
        if rank not in (None, array.ndim) or not array.size:
            axes = "" if rank is None else f" of {rank} axes"
            raise ConversionError(
                f"--verify {self.path}: {name} must be an array{axes} with "
                f"numbers in it; it has the shape {array.shape}."
            )
        return array


@contextlib.contextmanager
def arrays(path):
    """Open a file of expected arrays; nothing of it is unpickled.

    Args:
        path: of a `.npz` file.

    Raises:
        ConversionError: for a file of another form.
    """
    with contextlib.ExitStack() as stack:
        with files.decoding(path, FORM, ConversionError):
            stream = stack.enter_context(open(path, "rb"))
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is no zip file")
            stream.seek(0)
            archive = stack.enter_context(np.load(stream, allow_pickle=False))
        yield _Arrays(path, archive)


def check(path) -> None:
    """Raise an error for a file that cannot be opened, before all work.

    Args:
        path: of a `.npz` file, or `None`.
    """
    if path is not None:
        with arrays(path):
            pass


def compare_logits(logits, expected, name, tolerance):
    """A line that says how far logits are from expected ones.

    Args:
        logits: tensor of the model's logits.
        expected: what `arrays` gives.
        name: of the array that holds those expected.
        tolerance: largest absolute difference.

    Raises:
        ConversionError: for another shape or a larger difference.
    """
    logits, reference = keras.ops.convert_to_numpy(logits), expected.read(name)
    if logits.shape != reference.shape:
        raise ConversionError(
            f"--verify {expected.path}: the model gives logits "
            f"{logits.shape}; {name} has the shape {reference.shape}."
        )
    difference = float(np.abs(logits - reference).max())
    if not difference <= tolerance:
        raise ConversionError(
            f"--verify {expected.path}: logits differ from {name} by "
            f"{difference:.2e}, more than {tolerance:.0e}."
        )
    return f"logits differ from {name} by {difference:.1e} at most"


def compare_texts(model, path, tolerance):
    """Hold a language model against a file of expected logits.

    Args:
        model: a `MoTBackbone`.
        path: of a .npz file with `token_ids` and `logits`, and perhaps
            `attention_mask` and `logits_masked`.
        tolerance: largest absolute difference.

    Returns:
        A line that says what was compared.

    Raises:
        ConversionError: for a file that is damaged or does not fit, and for
            other logits.
    """
    with arrays(path) as expected:
        lacking = {"token_ids", "logits"} - expected.names
        if lacking:
            raise ConversionError(
                f"--verify {path} must hold token_ids and logits; it lacks "
                f"{', '.join(sorted(lacking))}."
            )
        ids, lines = expected.read("token_ids", "iu", 2), []
        if ids.min() < 0 or ids.max() >= model.vocabulary_size:
            raise ConversionError(
                f"--verify {path}: token_ids must lie from 0 to "
                f"{model.vocabulary_size - 1}; they lie from {ids.min()} to "
                f"{ids.max()}."
            )
        masks = {"logits": np.ones_like(ids)}
        if {"attention_mask", "logits_masked"} <= expected.names:
            mask = expected.read("attention_mask", "iub", 2)
            masks["logits_masked"] = mask
            if mask.shape != ids.shape:
                raise ConversionError(
                    f"--verify {path}: attention_mask must have the shape of "
                    f"token_ids, {ids.shape}; it has {mask.shape}."
                )
        for name, mask in masks.items():
            inputs = {"token_ids": ids, "padding_mask": mask}
            inputs = {
                key: keras.ops.convert_to_tensor(value, "int32")
                for key, value in inputs.items()
            }
            with files.about(f"--verify {path}", ConversionError):
                hidden = model(inputs, training=False)
            logits = model.token_embedding(hidden, reverse=True)
            lines.append(compare_logits(logits, expected, name, tolerance))
    return "; ".join(lines)

"""Holding the logits of a written preset against expected ones."""

import keras
import numpy as np

from conversion.errors import ConversionError


def compare_logits(logits, wanted, name, tolerance):
    """A line that says how far logits are from expected ones.

    Args:
        logits: tensor of the model's logits.
        wanted: array of those expected.
        name: of the array, for the text.
        tolerance: largest absolute difference.

    Raises:
        ConversionError: for another shape or a larger difference.
    """
    logits = keras.ops.convert_to_numpy(logits)
    if logits.shape != wanted.shape:
        raise ConversionError(
            f"--verify: the model gives logits {logits.shape}; {name} has the "
            f"shape {wanted.shape}."
        )
    difference = float(np.abs(logits - wanted).max())
    if not difference <= tolerance:
        raise ConversionError(
            f"--verify: logits differ from {name} by {difference:.2e}, more "
            f"than {tolerance:.0e}."
        )
    return f"logits differ from {name} by {difference:.1e} at most"


def compare_texts(model, expected, tolerance):
    """Hold a language model against a file of expected logits.

    Args:
        model: a `MoTBackbone`.
        expected: path of a .npz file with `token_ids` and `logits`, and
            perhaps `attention_mask` and `logits_masked`.
        tolerance: largest absolute difference.

    Returns:
        A line that says what was compared.
    """
    with np.load(expected, allow_pickle=False) as arrays:
        lacking = {"token_ids", "logits"} - set(arrays.files)
        if lacking:
            raise ConversionError(
                f"--verify {expected} must hold token_ids and logits; it "
                f"lacks {', '.join(sorted(lacking))}."
            )
        ids, lines = arrays["token_ids"], []
        masks = {"logits": np.ones_like(ids)}
        if {"attention_mask", "logits_masked"} <= set(arrays.files):
            masks["logits_masked"] = arrays["attention_mask"]
        for name, mask in masks.items():
            inputs = {"token_ids": ids, "padding_mask": mask}
            inputs = {
                key: keras.ops.convert_to_tensor(value, "int32")
                for key, value in inputs.items()
            }
            hidden = model(inputs, training=False)
            logits = model.token_embedding(hidden, reverse=True)
            lines.append(compare_logits(logits, arrays[name], name, tolerance))
    return "; ".join(lines)

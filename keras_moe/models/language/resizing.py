"""Longer positions and another vocabulary for a model that is loaded."""

import numpy as np
from keras import ops

from keras_moe import checks

SIZES = ("max_sequence_length", "vocabulary_size")
# Variables with a row, or a number, for each id; of one, a column.
OF_IDS = {"embeddings": 0, "output_bias": 0, "reverse_embeddings": 1}


def sizes_of(arguments: dict) -> dict:
    """Remove sizes from arguments of `from_preset`, and return them.

    Raises:
        ValueError: for one that is no integer of at least 1.
    """
    found = {n: arguments.pop(n) for n in SIZES if n in arguments}
    return {name: checks.integer(name, found[name]) for name in found}


def backbone(model, sizes: dict):
    """A `MoTBackbone` of other sizes with the weights of this one.

    Of the positions, the first rows are kept as they are, and further ones
    start as in a new model: a text that was short enough before is read as
    before. Of the vocabulary, the first ids are kept, and each further one
    starts as the mean of all ids that the model had. Its logit is the mean of
    the others, so that n new ids leave a token's probability at least
    V / (V + n) times what it was.

    Args:
        model: a `MoTBackbone`.
        sizes: `max_sequence_length`, `vocabulary_size`, or both.

    Returns:
        `model` itself where it has these sizes.

    Raises:
        ValueError: for another `vocabulary_size` of a model whose embedding
            is quantised.
    """
    if all(getattr(model, name) == size for name, size in sizes.items()):
        return model
    mode = model.token_embedding.quantization_mode
    vocabulary = sizes.get("vocabulary_size", model.vocabulary_size)
    if mode is not None and vocabulary != model.vocabulary_size:
        raise ValueError(
            "vocabulary_size can be changed where the embedding is not "
            f"quantised; received {vocabulary} for a model of "
            f"{model.vocabulary_size} ids in {mode}."
        )
    other = type(model).from_config({**model.get_config(), **sizes})
    _copy(model, other)
    other.head_source = model.head_source
    return other


def task(model, sizes: dict, follow: bool = True):
    """A language task of other sizes with the weights of this one.

    Args:
        model: a task on a `MoTBackbone`.
        sizes: as for `backbone`.
        follow: whether `sequence_length` of the preprocessor, which stays the
            same object, becomes `max_sequence_length`.
    """
    length = sizes.get("max_sequence_length")
    reader = model.preprocessor
    if follow and length is not None and hasattr(reader, "sequence_length"):
        reader.sequence_length = length
    resized = backbone(model.backbone, sizes)
    if resized is model.backbone:
        return model
    config = {**model.get_config(), "backbone": resized, "preprocessor": reader}
    if not model.compiled:
        config["compile"] = False
    other = type(model).from_config(config)
    _copy(model, other)
    resized.head_source = model.backbone.head_source
    return other


def _copy(source, target):
    """Copy weights, which both models have in the same order."""
    for old, new in zip(source.weights, target.weights, strict=True):
        value = ops.convert_to_numpy(old)
        if tuple(old.shape) != tuple(new.shape):
            value = _fitted(value, ops.convert_to_numpy(new), new.path)
        new.assign(value)


def _fitted(old, new, path):
    """`new` with the numbers of `old`, and of further ids the mean."""
    place, name = path.split("/")[-2:]
    axis = 0 if place == "position_embedding" else OF_IDS[name]
    old, fitted = np.moveaxis(old, axis, 0), np.moveaxis(new.copy(), axis, 0)
    if place != "position_embedding":
        fitted[:] = np.mean(old, axis=0, dtype="float32")
    kept = min(len(old), len(fitted))
    fitted[:kept] = old[:kept]
    return np.moveaxis(fitted, 0, axis)

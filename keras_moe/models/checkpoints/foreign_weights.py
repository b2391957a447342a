"""Weights of other codes: where each of ours comes from, and is it all there.

A table `{path of our variable: Source}` says which array of a checkpoint makes
each variable of a model. It is checked on shapes alone, before an array is
read; arrays are then read one at a time.
"""

import collections
import dataclasses
from collections.abc import Callable

import numpy as np


def _whole(array):
    return array


@dataclasses.dataclass(frozen=True)
class Source:
    """The array `name` of a checkpoint, and what of it makes our variable.

    `take` only cuts, turns, repeats or adjusts numbers, so that its result's
    shape follows from the array's shape.
    """

    name: str
    take: Callable = _whole


def match(sources, shapes, variables) -> None:
    """Raise an error unless names and shapes fit, each used exactly once.

    Args:
        sources: {path of our variable: `Source`}. A name that occurs more
            than once is a packed array, cut into so many parts.
        shapes: {name in the checkpoint: shape}.
        variables: {path of our variable: shape}.

    Raises:
        ValueError: naming what is missing, not used, or of another shape.
    """
    if set(sources) != set(variables):
        differ = sorted(set(sources) ^ set(variables))
        raise ValueError(
            "the model is not the one that the weights are of; they differ "
            f"in {differ[:5]}."
        )
    named = {source.name for source in sources.values()}
    missing, extra = sorted(named - set(shapes)), sorted(set(shapes) - named)
    if missing or extra:
        raise ValueError(
            "the checkpoint is not one of the model deduced from it: missing "
            f"{missing[:5] or 'nothing'}, not used {extra[:5] or 'nothing'}."
        )
    used = collections.Counter()
    for ours, source in sources.items():
        shape, expected = tuple(shapes[source.name]), tuple(variables[ours])
        # All numbers of this array are one and the same, so it is as small
        # as a number whatever its shape.
        array = np.broadcast_to(np.float32(0), shape)
        try:
            actual = source.take(array).shape
        except (ValueError, IndexError):  # of an array with other axes
            actual = None
        if actual != expected:
            raise ValueError(
                f"{source.name} has the shape {shape}, which does not make "
                f"{ours}, {expected}."
            )
        used[source.name] += int(np.prod(expected))
    for name, count in used.items():
        size = int(np.prod(shapes[name], dtype=int))
        # More than once where one learned number stands for several.
        if count % size:
            raise ValueError(
                f"{name} has {size} numbers; the model uses {count}."
            )


def read(source, checkpoint):
    """The float32 array of one of our variables.

    Args:
        source: a `Source`.
        checkpoint: has `read(name)`, which returns an array, and
            `where(name)`, which says where that lies.

    Raises:
        ValueError: if the array holds no floating-point numbers, or one that
            is not finite.
    """
    array = floats(
        checkpoint.read(source.name),
        f"{source.name} of {checkpoint.where(source.name)}",
    )
    return source.take(array)


def floats(array, name):
    """An array as float32.

    Raises:
        ValueError: if it holds no floating-point numbers, or one that is not
            finite.
    """
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{name} must hold floating-point numbers; it has {array.dtype}."
        )
    array = np.asarray(array, "float32")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite.")
    return array


def fill(model, sources, checkpoint) -> None:
    """Give a model its weights, one array in memory at a time."""
    variables = {weight.path: weight for weight in model.weights}
    match(
        sources,
        checkpoint.shapes(),
        {path: tuple(v.shape) for path, v in variables.items()},
    )
    for path, variable in variables.items():
        variable.assign(read(sources[path], checkpoint))

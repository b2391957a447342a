"""Leaves of a vmoe checkpoint's index: their numbers, and how they are cut.

Shards name an array by its number, its place among the leaves of the tree that
was saved. An index with a version numbers the leaves of its own maps, whose
keys are in the order of strings. An older one, without, numbers those of the
Python object that the maps were made of. For parameters, maps themselves, that
is the same; for a training state it is not: a dataclass and named tuples go by
their fields, and tuples by position, "2" before "10".
"""

import dataclasses
import math
import typing

import numpy as np

from conversion.errors import ConversionError

# Fields of flax's TrainState that hold arrays, and then vmoe's own.
STATE = ("step", "params", "opt_state", "rngs")
# Named tuples of vmoe's optimisers whose fields are not in alphabetical order.
NAMED_TUPLES = {
    frozenset(fields): fields
    for fields in (("count", "v_row", "v_col", "v"),)  # Adafactor
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Place of one array: `slices[i]` is in shard `shards[i]`."""

    number: int
    shape: tuple
    dtype: np.dtype
    slices: tuple
    shards: tuple

    def of_shard(self, shard):
        """The slices that lie in one shard."""
        return [s for s, i in zip(self.slices, self.shards) if i == shard]


class Entry(typing.NamedTuple):
    """Entry of an index for an array: `Leaf` without its number."""

    shape: tuple
    dtype: np.dtype
    slices: tuple
    shards: tuple


def is_training_state(tree):
    return (
        isinstance(tree, dict)
        and "params" in tree
        and not tree.keys().isdisjoint(("step", "opt_state"))
    )


def number_leaves(tree, as_state=False):
    """{path: `Leaf`} of an index.

    Args:
        tree: the maps of the index.
        as_state: whether the numbers are those of a `TrainState`.
    """
    leaves = {}

    def walk(node, path):
        if isinstance(node, dict):
            for key in _state_keys(node, path) if as_state else sorted(node):
                walk(node[key], (*path, key))
        elif node is not None:
            name = "/".join(path)
            if not isinstance(node, Entry):
                raise ValueError(f"{name} is no entry of an array")
            leaves[name] = Leaf(len(leaves), *node)

    walk(tree, ())
    return leaves


def _state_keys(node, path):
    """The keys of one map in a `TrainState`, in the order of its leaves."""
    keys = sorted(node)
    if not path:
        fields = [key for key in STATE if key in node]
        return fields + [key for key in keys if key not in STATE]
    if path[0] != "opt_state":
        return keys
    positions = [str(i) for i in range(len(keys))]
    if set(keys) == set(positions):
        return positions
    return NAMED_TUPLES.get(frozenset(keys), keys)


def check_tiles(path, leaf, shard_count):
    """The slices must cover the array once; equal volume and no overlap."""
    volume, seen = 0, []
    for nd_slice in leaf.slices:
        inside = len(nd_slice) == len(leaf.shape) and all(
            0 <= start < stop <= size
            for (start, stop), size in zip(nd_slice, leaf.shape)
        )
        overlaps = any(
            all(a < d and c < b for (a, b), (c, d) in zip(nd_slice, other))
            for other in seen
        )
        if not inside or overlaps:
            raise ConversionError(
                f"the index cuts {path}, {leaf.shape}, wrongly: {nd_slice}."
            )
        seen.append(nd_slice)
        volume += math.prod(stop - start for start, stop in nd_slice)
    if volume != math.prod(leaf.shape) or len(leaf.slices) != len(leaf.shards):
        raise ConversionError(f"the index does not cover {path} once.")
    if not all(0 <= shard < shard_count for shard in leaf.shards):
        raise ConversionError(
            f"the index puts {path} in shards {leaf.shards}; there are "
            f"{shard_count}."
        )

"""Weight files of presets: what they hold, checked before a model reads it."""

import math
import pathlib
import re

import h5py
import keras
import numpy as np

from keras_moe import files
from keras_moe.models.presets.manifest import SHARDS
from keras_moe.models.presets.manifest import shards_of

# What a weight file holds beside weights: the state of the optimiser and of
# random numbers, and the grid of `LearnedPositions`.
_NOT_A_WEIGHT = re.compile(r"^optimizer/|seed_generator/|/vars/grid$")
BLOCK = 2**22  # numbers that are looked at together


def is_weight(name) -> bool:
    """Whether an array of a weight file, by its path there, is a weight."""
    return not _NOT_A_WEIGHT.search(name)


def weight_sizes(path) -> list[int]:
    """Count the numbers of each weight of a weight file."""
    return [math.prod(shape) for shape, _ in weights(path).values()]


def weights(path) -> dict[str, tuple[tuple, str]]:
    """{name: (shape, dtype)} of the weights of a file, of an index's files.

    Raises:
        ValueError: for a file that is cut short, or one that claims more
            numbers than it stores.
    """
    found = {}
    for file in _files(path):
        for name, item in _read(file, _headers):
            if is_weight(name):
                found[f"{file.name}:{name}"] = item
    return found


def written_by(layers) -> int:
    """Count the weights that Keras writes of layers.

    That is not how many they have: it adds LoRA's adapters to the kernels.
    """
    count = 0
    for layer in layers:
        store = {}
        layer.save_own_variables(store)
        count += sum(is_weight(f"/vars/{key}") for key in store)
    return count


def check_weights(path, expected) -> None:
    """Raise an error if a weight file does not hold a model's weights.

    Keras skips what a model does not ask for, names no file where something
    is missing, and reads any number of any dtype.

    Args:
        path: of a file that ends in `.weights.h5`, or of the index of several.
        expected: how many arrays the model reads from it.
    """
    found = weights(path)
    if len(found) != expected:
        raise files.UnreadableFile(
            f"{path} must hold {expected} arrays for this model; it holds "
            f"{len(found)}."
        )
    allowed = declared(pathlib.Path(path).parent)
    for name, (_, dtype) in found.items():
        if allowed is not None and dtype not in allowed:
            raise files.UnreadableFile(
                f"{path} must hold numbers of {' or '.join(sorted(allowed))}, "
                f"as config.json beside it says; {name.partition(':')[2]} has "
                f"{dtype}."
            )
    for file in _files(path):
        for name in _read(file, _not_finite):
            raise files.UnreadableFile(
                f"{file} must hold finite numbers; {name} does not."
            )


def declared(folder) -> set[str] | None:
    """Dtypes that the weights of a preset may have by its configuration.

    Layers may keep float32 whatever the model's dtype is. `None` where
    nothing is said, or the model is quantised.
    """
    names = set()
    for file in ("config.json", "task.json"):
        try:
            config = files.read_json(pathlib.Path(folder) / file, finite=False)
            config["config"].pop("preprocessor", None)
            names |= set(_policies(config))
        except (files.UnreadableFile, KeyError, TypeError, AttributeError):
            continue  # not there, or not a configuration of Keras
    dtypes = {"float32"}
    for name in names:
        try:
            policy = keras.DTypePolicy(name)
        except ValueError:
            return None  # quantised, or one that the model will refuse
        dtypes.add(policy.variable_dtype)
    return dtypes if names else None


def _policies(config):
    """Names of all dtypes in a configuration."""
    if isinstance(config, list):
        for one in config:
            yield from _policies(one)
    if not isinstance(config, dict):
        return
    kind = config.get("class_name")
    if kind == "DTypePolicy":
        yield str(config.get("config", {}).get("name"))
    elif isinstance(kind, str) and "DTypePolicy" in kind:
        yield kind
    else:
        for key, value in config.items():
            if key.endswith("dtype") and isinstance(value, str):
                yield value
            else:
                yield from _policies(value)


def _files(path):
    """The HDF5 files of a path: itself, or those that an index names."""
    path = pathlib.Path(path)
    if path.name != SHARDS:
        return [path]
    return [path.parent / name for name in shards_of(path.parent)]


def _read(path, look):
    """Results of a function of the name and dataset of each array."""
    found = []

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            found.extend(look(path, name, item))

    with files.decoding(path, "whole HDF5 file"), h5py.File(path) as file:
        file.visititems(collect)
    return found


def _headers(path, name, item):
    stored = item.id.get_storage_size()
    shape = item.shape
    # HDF5 gives zeros where nothing is stored, and opens other files.
    if (
        shape is None
        or item.external
        or item.is_virtual
        or stored < math.prod(shape) * item.dtype.itemsize
        or stored > path.stat().st_size
    ):
        raise files.UnreadableFile(
            f"{path} must store all numbers of its arrays itself, without "
            f"compression; {name} has the shape {shape}, and {stored} bytes."
        )
    yield name, (shape, str(item.attrs.get("dtype", item.dtype.name)))


def _not_finite(path, name, item):
    """The name of an array if not all numbers of it are finite."""
    dtype = item.attrs.get("dtype", item.dtype.name)
    if not is_weight(name) or item.dtype.kind not in "fV" or not item.size:
        return
    rows = max(1, BLOCK * item.shape[0] // item.size) if item.shape else 1
    for start in range(0, item.shape[0] if item.shape else 1, rows):
        block = np.asarray(item[start : start + rows] if item.shape else item)
        if dtype == "bfloat16":
            # Two bytes, the upper ones of a float32.
            block = block.view("uint16").astype("uint32") << 16
            block = block.view("float32")
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            yield name
            return

"""Orbax checkpoints, as vmoe's trainer writes them today."""

import math
import operator
import pathlib

import numpy as np

from conversion.errors import ConversionError
from keras_moe import files

METADATA = "_METADATA"
FORM = "metadata of an Orbax checkpoint"
# Numbers that a byte of a compressed file may stand for, and numbers that a
# checkpoint may have in any case. Zeros of a new optimiser take no space.
NUMBERS = 16
SPARE = 2**20


def find_state(folder):
    """The folder with the arrays: the one given, or one below it.

    Takes the folder of the state, of a step, or of all steps (the last one).
    """
    folder = pathlib.Path(folder)
    for candidate in (folder, folder / "ckpt"):
        steps = sorted(
            (p for p in candidate.glob("*") if p.name.isdecimal()),
            key=lambda p: int(p.name),
        )
        for state in (candidate, candidate / "state"):
            if (state / METADATA).is_file():
                return state
        if steps and (steps[-1] / "state" / METADATA).is_file():
            return steps[-1] / "state"
    prefixes = sorted(p.with_suffix("") for p in folder.glob("*.index"))
    if prefixes:
        raise ConversionError(
            f"{folder} holds vmoe checkpoints, which are given by their "
            f"prefix, such as {prefixes[-1]}; received the folder."
        )
    raise ConversionError(
        f"{folder} must be the folder of an Orbax checkpoint, of its state, "
        "or of steps of a run; no _METADATA was found there."
    )


class Checkpoint:
    """Arrays by path, `"/"` between the keys.

    Args:
        folder: see `find_state`.
    """

    def __init__(self, folder):
        self.folder = find_state(folder)
        file = self.folder / METADATA
        metadata = files.read_json(file, error=ConversionError)
        with files.decoding(file, FORM, ConversionError):
            self._shapes = _shapes(metadata["tree_metadata"])
        self.files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        size = sum(path.stat().st_size for path in self.files)
        self._limit = SPARE + NUMBERS * size
        claimed = sum(math.prod(s) for s in self._shapes.values() if s)
        self._check_count(claimed, file, "arrays")
        self._keys = {path: path.replace("/", ".") for path in self._shapes}
        if len(set(self._keys.values())) < len(self._keys):
            raise ConversionError(f"{file} gives two arrays the same place.")
        self._zarr3 = bool(metadata.get("use_zarr3"))
        self._ocdbt = bool(metadata.get("use_ocdbt"))

    def shapes(self):
        """{path: shape} of all arrays."""
        return {
            path: self._open(path).shape if shape is None else shape
            for path, shape in self._shapes.items()
        }

    def dtype(self, path):
        return self._open(path).dtype.numpy_dtype

    def where(self, path):
        """Name of an array's place in errors."""
        return self.folder

    def read(self, path):
        """One array, all chunks of which must be there."""
        array = self._open(path)
        shape = self._shapes[path]
        if shape not in (None, array.shape):
            raise ConversionError(
                f"{path} of {self.folder} has the shape {array.shape}; "
                f"{METADATA} says {shape}."
            )
        self._check_count(math.prod(array.shape), self.folder, path)
        chunk = array.chunk_layout.read_chunk.shape or ()
        self._check_count(math.prod(chunk), self.folder, f"chunks of {path}")
        with files.decoding(
            self.folder, f"checkpoint with a whole {path}", ConversionError
        ):
            return np.asarray(array.read().result())

    def _check_count(self, count, place, what):
        """Raise an error for more numbers than files of this size hold."""
        if count > self._limit:
            raise ConversionError(
                f"{place} describes {what} of {count:,} numbers; its files "
                f"have room for {self._limit:,}."
            )

    def _open(self, path):
        import tensorstore

        base = self.folder.resolve().as_posix()
        store = {"driver": "file", "path": f"{base}/{self._keys[path]}/"}
        if self._ocdbt:
            store = {
                "driver": "ocdbt",
                "base": f"file://{base}/",
                "path": f"{self._keys[path]}/",
            }
        name = "zarr.json" if self._zarr3 else ".zarray"
        with files.decoding(
            self.folder, f"checkpoint with a whole {path}", ConversionError
        ):
            # Of too many levels, tensorstore's parser ends the process.
            entries = tensorstore.KvStore.open(store).result()
            files.parse_json(entries[name].decode(), finite=False)
            return tensorstore.open(
                {
                    "driver": "zarr3" if self._zarr3 else "zarr",
                    "kvstore": store,
                    "recheck_cached_data": False,
                    # else a chunk that is missing is one of zeros
                    "fill_missing_data_reads": False,
                },
                read=True,
            ).result()


def _shapes(tree):
    """{path: shape, or `None` where it is not told} of a tree's arrays."""
    shapes = {}
    for entry in tree.values():
        keys = [str(k["key"]) for k in entry["key_metadata"]]
        value = entry["value_metadata"]
        if value["value_type"] in ("None", "Dict", "dict"):
            continue
        path = "/".join(keys)
        if not keys or any(set(key) <= {"."} or "/" in key for key in keys):
            raise ValueError(f"no array can be called {keys}")
        if path in shapes:
            raise ValueError(f"{path} occurs twice")
        shape = value.get("write_shape")
        if shape is not None:
            shape = tuple(operator.index(size) for size in shape)
            if any(size < 0 for size in shape):
                raise ValueError(f"{path} cannot have the shape {shape}")
        shapes[path] = shape
    return shapes

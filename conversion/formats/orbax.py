"""Orbax checkpoints, as vmoe's trainer writes them today."""

import json
import pathlib

import numpy as np

from conversion.errors import ConversionError

METADATA = "_METADATA"


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
        try:
            metadata = json.loads(file.read_text())
            tree = metadata["tree_metadata"]
            self._keys, self._shapes = {}, {}
            for entry in tree.values():
                keys = [str(k["key"]) for k in entry["key_metadata"]]
                value = entry["value_metadata"]
                if value["value_type"] in ("None", "Dict", "dict"):
                    continue
                path = "/".join(keys)
                self._keys[path] = ".".join(keys)
                shape = value.get("write_shape")
                self._shapes[path] = None if shape is None else tuple(shape)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConversionError(
                f"{file} is not the metadata of an Orbax checkpoint: {error!r}"
            ) from error
        self._zarr3 = bool(metadata.get("use_zarr3"))
        self._ocdbt = bool(metadata.get("use_ocdbt"))
        self.files = sorted(p for p in self.folder.rglob("*") if p.is_file())

    def shapes(self):
        """{path: shape} of all arrays."""
        return {
            path: self._open(path).shape if shape is None else shape
            for path, shape in self._shapes.items()
        }

    def dtype(self, path):
        return self._open(path).dtype.numpy_dtype

    def read(self, path):
        """One array."""
        array = self._open(path)
        try:
            return np.asarray(array.read().result())
        except ValueError as error:
            raise ConversionError(
                f"{path} of {self.folder} cannot be read: {error}"
            ) from error

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
        try:
            return tensorstore.open(
                {
                    "driver": "zarr3" if self._zarr3 else "zarr",
                    "kvstore": store,
                    "recheck_cached_data": False,
                },
                read=True,
            ).result()
        except ValueError as error:
            raise ConversionError(
                f"{path} of {self.folder} cannot be opened: {error}"
            ) from error

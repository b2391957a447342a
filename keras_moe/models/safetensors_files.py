"""Weights in safetensors files, one tensor at a time. Nothing is unpickled."""

import contextlib
import json
import pathlib

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Checkpoint:
    """Tensors by name, of `model.safetensors` or of the shards of its index.

    Args:
        folder: that holds the files.

    Raises:
        ValueError: where files are missing or damaged, or an index and its
            shards do not agree.
        ImportError: where the package safetensors is not installed.
    """

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        if (folder / ONE).is_file():
            places, self.files = None, []
        elif (folder / INDEX).is_file():
            places = _places(folder / INDEX)
            self.files = [folder / INDEX]
        else:
            raise ValueError(
                f"{folder} must hold {ONE} or {INDEX}; weights in other "
                "forms, such as pickled .bin files, are not read."
            )
        names = sorted(set(places.values())) if places else [ONE]
        for name in names:
            if not (folder / name).is_file():
                raise ValueError(f"{folder} lacks its shard {name}.")
        self._file, self._shapes = {}, {}
        for name in names:
            path = folder / name
            self.files.append(path)
            with _open(path) as tensors:
                for key in tensors.keys():  # noqa: SIM118 (no dictionary)
                    if places is not None and places.get(key) != name:
                        raise ValueError(
                            f"{name} holds {key}, which {INDEX} does not "
                            "place there."
                        )
                    self._file[key] = path
                    shape = tensors.get_slice(key).get_shape()
                    self._shapes[key] = tuple(shape)
        lost = sorted(set(places or ()) - set(self._file))
        if lost:
            raise ValueError(
                f"{places[lost[0]]} lacks {lost[0]}, which {INDEX} places "
                "there."
            )

    def shapes(self):
        """{name: shape} of all tensors."""
        return dict(self._shapes)

    def read(self, name):
        """One tensor as an array."""
        # A file is opened for each, so that no more of it stays in memory.
        with _open(self._file[name]) as tensors:
            return tensors.get_tensor(name)


@contextlib.contextmanager
def _open(path):
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            f"reading {path.name} needs the package safetensors; install it "
            "with `pip install safetensors`."
        ) from error
    try:
        with safetensors.safe_open(path, framework="np") as tensors:
            yield tensors
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no whole safetensors file: {error}"
        ) from error


def _places(index):
    """{name of a tensor: name of its file} of an index."""
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} is not an index of safetensors files: {error!r}"
        ) from error
    if not isinstance(places, dict) or not places:
        raise ValueError(f"weight_map of {index} must map tensors to files.")
    for name in places.values():
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or name != pathlib.PurePosixPath(name).name
            or "\\" in name
        ):
            raise ValueError(
                f"{index} may only name safetensors files beside it; it names "
                f"{name!r}."
            )
    return places

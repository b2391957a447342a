"""Weights in safetensors files, one tensor at a time. Nothing is unpickled."""

import contextlib
import pathlib

from keras_moe import files

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What NumPy has. Numbers of fewer bits come with scales of their own.
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U64",
    "U32",
    "U16",
    "U8",
    "BOOL",
]


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
            raise files.UnreadableFile(
                f"{folder} must hold {ONE} or {INDEX}; weights in other "
                "forms, such as pickled .bin files, are not read."
            )
        names = sorted(set(places.values())) if places else [ONE]
        for name in names:
            if not (folder / name).is_file():
                raise files.UnreadableFile(f"{folder} lacks its shard {name}.")
        self._file, self._shapes = {}, {}
        for name in names:
            path = folder / name
            self.files.append(path)
            with _open(path) as tensors:
                for key in tensors.keys():  # noqa: SIM118 (no dictionary)
                    if places is not None and places.get(key) != name:
                        raise files.UnreadableFile(
                            f"{path} holds {key}, which {INDEX} does not "
                            "place there."
                        )
                    self._file[key] = path
                    shape = tensors.get_slice(key).get_shape()
                    self._shapes[key] = tuple(shape)
        lost = sorted(set(places or ()) - set(self._file))
        if lost:
            raise files.UnreadableFile(
                f"{folder / places[lost[0]]} lacks {lost[0]}, which {INDEX} "
                "places there."
            )

    def shapes(self):
        """{name: shape} of all tensors."""
        return dict(self._shapes)

    def where(self, name):
        """The file that a tensor lies in."""
        return self._file[name]

    def read(self, name):
        """One tensor as an array."""
        # A file is opened for each, so that no more of it stays in memory.
        with _open(self._file[name]) as tensors:
            dtype = tensors.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise files.UnreadableFile(
                    f"{name} of {self._file[name]} must be of one of the "
                    f"dtypes {', '.join(DTYPES)}; it is {dtype}."
                )
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
    with (
        files.decoding(path, "whole safetensors file"),
        safetensors.safe_open(path, framework="np") as tensors,
    ):
        yield tensors


def _places(index):
    """{name of a tensor: name of its file} of an index."""
    places = files.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise files.UnreadableFile(
            f"weight_map of {index} must map tensors to files."
        )
    for name in places.values():
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or name != pathlib.PurePosixPath(name).name
            or "\\" in name
        ):
            raise files.UnreadableFile(
                f"{index} may only name safetensors files beside it; it names "
                f"{name!r}."
            )
    return places

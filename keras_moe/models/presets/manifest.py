"""The manifest of a preset folder: each file's size and checksum."""

import contextlib
import hashlib
import json
import pathlib
import re

import keras_moe
from keras_moe import files
from keras_moe.files import whole

MANIFEST = "keras_moe.json"
FORMAT = 1
SHARDS = "model.weights.json"  # the index of weights in several files
CARD = "README.md"
# What KerasHub or this package writes to a preset and may read of it, beside
# `*.weights.h5` and the files of tokenizers.
READ = (
    "config.json",
    "metadata.json",
    "task.json",
    "preprocessor.json",
    "tokenizer.json",
    "image_converter.json",
    "audio_converter.json",
    "video_converter.json",
    SHARDS,
)


class DamagedFile(files.UnreadableFile):
    """A file of a preset that is not what it should be.

    Args:
        message: what is wrong.
        name: of the file, in its folder.
    """

    def __init__(self, message, name):
        super().__init__(message)
        self.name = name


def digest(path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(name) -> None:
    """Raise an error if a file of a preset would lie outside its folder."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"\\|^\w:", name):
        raise files.UnreadableFile(
            "a preset may only list files of its own folder; it lists "
            f"{name!r}."
        )


def write_bytes(path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder if need be."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with whole(part, path):
        part.write_bytes(content)


def write_text(path, text: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path, value) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_manifest(folder, others=None) -> None:
    """Record the size and checksum of every file of a preset.

    Hidden files and the card are not the preset's.

    Args:
        folder: of the preset.
        others: `read_manifest` of files that will lie beside these.
    """
    folder = pathlib.Path(folder)
    recorded = {
        name: {"bytes": size, "sha256": checksum}
        for name, (size, checksum) in (others or {}).items()
    }
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not is_kept(name) and path.name != MANIFEST:
            recorded[name.as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": digest(path),
            }
    manifest = {
        "format": FORMAT,
        "version": keras_moe.__version__,
        "files": dict(sorted(recorded.items())),
    }
    write_json(folder / MANIFEST, manifest)


def is_kept(name) -> bool:
    """Whether a file of a preset's folder is never the preset's own."""
    path = pathlib.PurePath(name)
    return path.name == CARD or any(p.startswith(".") for p in path.parts)


def readable(folder) -> list[str]:
    """Names of the files of a folder that a preset is read from."""
    folder = pathlib.Path(folder)
    names = [name for name in READ if (folder / name).is_file()]
    names += [path.name for path in folder.glob("*.weights.h5")]
    for path in folder.glob("assets/*/**/*"):
        name = path.relative_to(folder)
        # Beside them may lie others' files, such as pictures of a card.
        if path.is_file() and (folder / f"{name.parts[1]}.json").is_file():
            names.append(name.as_posix())
    return names


def check_listed(folder, name) -> None:
    """Raise an error if the manifest of a folder does not list a file."""
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        return
    if (folder / name).is_file() and name not in read_manifest(folder):
        raise _loose(folder, name)


def _loose(folder, name):
    return files.UnreadableFile(
        f"preset {folder} holds {name}, which its manifest does not list; see "
        f"{MANIFEST}."
    )


def read_manifest(folder) -> dict[str, tuple[int, str]]:
    """{name: (bytes, SHA-256)} of the files that a manifest records.

    Raises:
        DamagedFile: if it cannot be read.
        ValueError: if a newer version of the package wrote it.
    """
    folder = pathlib.Path(folder)
    path = folder / MANIFEST
    with _damaged(path, "manifest of keras_moe"):
        manifest = files.read_json(path)
        written = manifest["format"]
        if type(written) is not int or written < 1:
            raise ValueError(f"format must be an integer; it is {written!r}")
        entries = dict(manifest["files"]) if written <= FORMAT else {}
        recorded = dict(map(_entry, entries.items()))
    if written > FORMAT:
        raise ValueError(
            f"preset {folder} has format {written}, written by keras_moe "
            f"{manifest.get('version')}, as {MANIFEST} says; this is "
            f"keras_moe {keras_moe.__version__}, which reads formats up to "
            f"{FORMAT}. Upgrade keras-moe."
        )
    return recorded


def _entry(item):
    """Name, size and SHA-256 of a file, of an entry of a manifest."""
    name, entry = item
    size, checksum = entry["bytes"], entry["sha256"]
    if type(size) is not int or not re.fullmatch("[0-9a-f]{64}", checksum):
        raise ValueError(
            f"{name!r} must have bytes, an integer, and sha256, 64 digits; it "
            f"has {size!r} and {checksum!r}"
        )
    return name, (size, checksum)


@contextlib.contextmanager
def _damaged(path, form):
    """Turn whatever the content of a file raises into a `DamagedFile`."""
    try:
        with files.decoding(path, form):
            yield
    except DamagedFile:
        raise
    except files.UnreadableFile as error:
        raise DamagedFile(str(error), path.name) from error


def shards_of(folder) -> list[str]:
    """Files that weights were spread over, as their index names them.

    Raises:
        DamagedFile: if the index cannot be read.
    """
    index = pathlib.Path(folder) / SHARDS
    if not index.is_file():
        return []
    with _damaged(index, "index of weights"):
        places = files.read_json(index)["weight_map"].values()
        names = [[one] if isinstance(one, str) else one for one in places]
        names = sorted({name for some in names for name in some})
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"it must name files of weights, not {names}")
        return names


def check_manifest(folder) -> None:
    """Raise an error naming a file that is not what the manifest records.

    A folder without a manifest, written by others, is taken as it is, except
    that weights in several files must lie in it.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        for name in shards_of(folder):
            with files.about(folder / SHARDS):
                check_name(name)
        return
    recorded = read_manifest(folder)
    for name, (recorded_size, recorded_digest) in recorded.items():
        path = folder / name
        with files.about(folder / MANIFEST):
            check_name(name)
        # A name may be longer than the system allows.
        with _damaged(folder / MANIFEST, "manifest of keras_moe"):
            there = path.is_file()
        if not there:
            raise DamagedFile(
                f"preset {folder} lacks its file {name}, which {MANIFEST} "
                "lists.",
                name,
            )
        size = path.stat().st_size
        if size != recorded_size:
            raise DamagedFile(
                f"{name} of preset {folder} must have {recorded_size} bytes; "
                f"it has {size}.",
                name,
            )
        if digest(path) != recorded_digest:
            raise DamagedFile(
                f"{name} of preset {folder} does not have the SHA-256 "
                f"checksum recorded for it in {MANIFEST}, {recorded_digest}.",
                name,
            )
    loose = [*readable(folder), *shards_of(folder)]
    for name in loose:
        if name not in recorded:
            raise _loose(folder, name)

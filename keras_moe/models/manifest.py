"""The manifest of a preset folder: each file's size and checksum."""

import hashlib
import json
import pathlib
import re

import keras_moe
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


class DamagedFile(ValueError):
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
        raise ValueError(
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
    files = {
        name: {"bytes": size, "sha256": checksum}
        for name, (size, checksum) in (others or {}).items()
    }
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not is_kept(name) and path.name != MANIFEST:
            files[name.as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": digest(path),
            }
    manifest = {
        "format": FORMAT,
        "version": keras_moe.__version__,
        "files": dict(sorted(files.items())),
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
    return ValueError(
        f"preset {folder} holds {name}, which its manifest does not list."
    )


def read_manifest(folder) -> dict[str, tuple[int, str]]:
    """{name: (bytes, SHA-256)} of the files that a manifest records.

    Raises:
        DamagedFile: if it cannot be read.
        ValueError: if a newer version of the package wrote it.
    """
    folder = pathlib.Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        written = int(manifest["format"])
        entries = dict(manifest["files"]) if written <= FORMAT else {}
        files = {
            name: (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(
            f"{folder / MANIFEST} is not a manifest of keras_moe: {error}",
            MANIFEST,
        ) from error
    if written > FORMAT:
        raise ValueError(
            f"preset {folder} has format {written}, written by keras_moe "
            f"{manifest.get('version')}; this is keras_moe "
            f"{keras_moe.__version__}, which reads formats up to {FORMAT}. "
            "Upgrade keras-moe."
        )
    return files


def shards_of(folder) -> list[str]:
    """Files that weights were spread over, as their index names them.

    Raises:
        DamagedFile: if the index cannot be read.
    """
    index = pathlib.Path(folder) / SHARDS
    if not index.is_file():
        return []
    try:
        places = json.loads(index.read_text())["weight_map"].values()
        names = [[one] if isinstance(one, str) else one for one in places]
        return sorted({str(name) for some in names for name in some})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(
            f"{index} is not an index of weights: {error!r}", SHARDS
        ) from error


def check_manifest(folder) -> None:
    """Raise an error naming a file that is not what the manifest records.

    A folder without a manifest, written by others, is taken as it is, except
    that weights in several files must lie in it.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        for name in shards_of(folder):
            check_name(name)
        return
    files = read_manifest(folder)
    for name, (recorded_size, recorded_digest) in files.items():
        check_name(name)
        path = folder / name
        if not path.is_file():
            raise DamagedFile(f"preset {folder} lacks its file {name}.", name)
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
                f"checksum recorded for it, {recorded_digest}.",
                name,
            )
    loose = [*readable(folder), *shards_of(folder)]
    for name in loose:
        if name not in files:
            raise _loose(folder, name)

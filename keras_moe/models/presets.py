"""Presets: folders that hold a model, found by name, checked when read.

KerasHub reads and writes the files. Around it, this module knows the presets
that ship with the package, fetches whole repositories of the Hugging Face Hub,
and keeps in each folder a manifest of its files, so that a file that is
missing, cut short or altered is refused instead of read.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile

import h5py
import keras

import keras_moe

FOLDER = pathlib.Path(__file__).parent.parent / "presets"
MANIFEST = "keras_moe.json"
FORMAT = 1
HUB = "hf://"
PART = ".part"  # ends the name of a folder that is being written
# What a weight file holds beside weights: the state of the optimiser and of
# random numbers, and the grid of `LearnedPositions`.
_NOT_A_WEIGHT = re.compile(r"^optimizer/|seed_generator/|/vars/grid$")
KNOWN_SCHEMES = ("kaggle://", "modelscope://", "gs://")


def list_presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(p.parent.name for p in FOLDER.glob("*/config.json"))


def resolve(preset: str) -> str:
    """The folder of a preset, fetched from the Hub if it lives there.

    Args:
        preset: a name of `list_presets()`, a folder, or
            `"hf://organisation/name"` with `"@revision"` behind it if wanted.
            KerasHub's other handles are returned as they are.
    """
    if not isinstance(preset, (str, os.PathLike)):
        raise ValueError(
            "preset must be a name, a folder or a handle such as "
            f"'hf://organisation/name'; received {preset!r}."
        )
    preset = os.fspath(preset)
    if preset in list_presets():
        return str(FOLDER / preset)
    if preset.startswith(HUB):
        from huggingface_hub import snapshot_download

        name, _, revision = preset.removeprefix(HUB).partition("@")
        return snapshot_download(name, revision=revision or None)
    if preset.startswith(KNOWN_SCHEMES) or os.path.isdir(preset):
        return preset
    raise ValueError(
        f"preset must be one of {', '.join(map(repr, list_presets()))}, a "
        "folder that exists or a handle such as 'hf://organisation/name'; "
        f"received {preset!r}."
    )


def digest(path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value) -> None:
    """Write a JSON file whole or not at all, and its folder if need be."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)


def is_weight(name) -> bool:
    """Whether an array of a weight file, by its path there, is a weight."""
    return not _NOT_A_WEIGHT.search(name)


def write_manifest(folder) -> None:
    """Record the size and checksum of every file of a preset."""
    folder = pathlib.Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, "README.md")
    }
    manifest = {
        "format": FORMAT,
        "version": keras_moe.__version__,
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)


def check_manifest(folder) -> None:
    """Raise an error naming a file that is not what the manifest records.

    A folder without a manifest, written by others, is taken as it is.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        written = int(manifest["format"])
        entries = dict(manifest["files"]) if written <= FORMAT else {}
        files = {
            name: (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / MANIFEST} is not a manifest of keras_moe: {error}"
        ) from error
    if written > FORMAT:
        raise ValueError(
            f"preset {folder} has format {written}, written by keras_moe "
            f"{manifest.get('version')}; this is keras_moe "
            f"{keras_moe.__version__}, which reads formats up to {FORMAT}. "
            "Upgrade keras-moe."
        )
    for name, (recorded_size, recorded_digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"preset {folder} lacks its file {name}.")
        size = path.stat().st_size
        if size != recorded_size:
            raise ValueError(
                f"{name} of preset {folder} must have {recorded_size} bytes; "
                f"it has {size}."
            )
        if digest(path) != recorded_digest:
            raise ValueError(
                f"{name} of preset {folder} does not have the SHA-256 "
                f"checksum recorded for it, {recorded_digest}."
            )
    loose = [
        path.name
        for path in folder.glob("*.weights.h5")
        if path.name not in files
    ]
    if loose:
        raise ValueError(
            f"preset {folder} holds {loose[0]}, which its manifest does not "
            "list."
        )


def check_weights(path, expected) -> None:
    """Raise an error if a weight file holds fewer or more arrays.

    Keras skips what a model does not ask for, and names no file where
    something is missing.

    Args:
        path: of a file that ends in `.weights.h5`.
        expected: how many arrays the model reads from it.
    """
    try:
        with h5py.File(path) as file:
            found = []

            def collect(name, item):
                if isinstance(item, h5py.Dataset) and is_weight(name):
                    found.append(name)

            file.visititems(collect)
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {error}") from error
    if len(found) != expected:
        raise ValueError(
            f"{path} must hold {expected} arrays for this model; it holds "
            f"{len(found)}."
        )


class _Presets:
    """Finds presets by our names too, checks them, and writes manifests."""

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        folder = resolve(preset)
        check_manifest(folder)
        if load_weights:
            cls._check_complete(folder, kwargs)
        kwargs = {**cls._defaults(folder), **kwargs}
        return super().from_preset(folder, load_weights=load_weights, **kwargs)

    @classmethod
    def _check_complete(cls, folder, kwargs):
        """Raise an error if a weight file is not there that is needed."""

    @classmethod
    def _defaults(cls, folder):
        """Arguments of `from_preset` where the caller gives none."""
        return {}

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Write a preset folder, whole or not at all.

        Args:
            preset_dir: the folder. One that exists is replaced if it is a
                preset or empty, refused otherwise.
            max_shard_size: GB of weights in one file.
        """
        target = pathlib.Path(preset_dir)
        if target.suffix == PART:  # of the task whose backbone this is
            return super().save_to_preset(preset_dir, max_shard_size)
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(
            tempfile.mkdtemp(
                prefix=f".{target.name}.", suffix=PART, dir=target.parent
            )
        )
        try:
            super().save_to_preset(str(part), max_shard_size=max_shard_size)
            write_manifest(part)
            replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


class BackbonePresets(_Presets):
    """`_Presets` for a backbone."""

    @classmethod
    def _defaults(cls, folder):
        # KerasHub would forget which layers are quantised, for a backbone.
        config = pathlib.Path(folder) / "config.json"
        if not config.is_file():
            return {}
        dtype = json.loads(config.read_text()).get("config", {}).get("dtype")
        is_map = isinstance(dtype, dict) and (
            dtype["class_name"] == "DTypePolicyMap"
        )
        return {"dtype": keras.dtype_policies.get(dtype)} if is_map else {}

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        if str(filepath).endswith(".weights.h5") and not skip_mismatch:
            check_weights(filepath, len(self.weights))
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)


class TaskPresets(_Presets):
    """`_Presets` for a task."""

    @classmethod
    def _check_complete(cls, folder, kwargs):
        # KerasHub would start a new head, and not say so. A language model's
        # head is its embedding, and has no file.
        folder = pathlib.Path(folder)
        task = folder / "task.json"
        if (
            "num_classes" not in kwargs
            and task.is_file()
            and "num_classes" in json.loads(task.read_text())["config"]
            and not (folder / "task.weights.h5").is_file()
        ):
            raise ValueError(
                f"preset {folder} lacks its file task.weights.h5, the weights "
                "of the head; give num_classes for a new head."
            )

    def load_task_weights(self, filepath):
        own = len(self.weights) - len(self.backbone.weights)
        check_weights(filepath, own)
        super().load_task_weights(filepath)


def check_target(target) -> None:
    """Refuse a folder to write to that holds anything but a preset."""
    target = pathlib.Path(target)
    if target.exists() and (
        not target.is_dir()
        or (any(target.iterdir()) and not (target / "config.json").is_file())
    ):
        raise ValueError(
            "the folder of a preset must be new, empty or a preset to "
            f"replace; {str(target)!r} is none of these."
        )


def replace(part, target) -> None:
    """Put the finished folder `part` where `target` is or will be."""
    part, target = pathlib.Path(part), pathlib.Path(target)
    part.chmod(0o755)
    if not target.exists():
        part.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    part.rename(target)
    shutil.rmtree(old)

"""Presets: folders that hold a model, found by name, checked when read.

KerasHub reads and writes the files. Around it, this module knows the presets
that ship with the package, fetches whole repositories of the Hugging Face Hub,
and keeps in each folder a manifest of its files, so that a file that is
missing, cut short or altered is refused instead of read.
"""

import contextlib
import json
import pathlib
import re
import shutil
import tempfile

import h5py
import keras

from keras_moe.models import catalogue
from keras_moe.models import hub
from keras_moe.models.catalogue import FOLDER as FOLDER
from keras_moe.models.catalogue import embedded as embedded
from keras_moe.models.finding import AWAITED
from keras_moe.models.finding import HEAD
from keras_moe.models.finding import check_download
from keras_moe.models.finding import find as find
from keras_moe.models.finding import resolve as resolve
from keras_moe.models.manifest import FORMAT as FORMAT
from keras_moe.models.manifest import MANIFEST as MANIFEST
from keras_moe.models.manifest import DamagedFile as DamagedFile
from keras_moe.models.manifest import check_manifest as check_manifest
from keras_moe.models.manifest import digest as digest
from keras_moe.models.manifest import read_manifest as read_manifest
from keras_moe.models.manifest import write_json as write_json
from keras_moe.models.manifest import write_manifest

HUB = hub.SCHEME
PART = ".part"  # ends the name of a folder that is being written
# What a weight file holds beside weights: the state of the optimiser and of
# random numbers, and the grid of `LearnedPositions`.
_NOT_A_WEIGHT = re.compile(r"^optimizer/|seed_generator/|/vars/grid$")


def is_weight(name) -> bool:
    """Whether an array of a weight file, by its path there, is a weight."""
    return not _NOT_A_WEIGHT.search(name)


def weight_sizes(path) -> list[int]:
    """How many numbers each weight of a weight file has."""
    sizes = []

    def collect(name, item):
        if isinstance(item, h5py.Dataset) and is_weight(name):
            sizes.append(item.size)

    with h5py.File(path) as file:
        file.visititems(collect)
    return sizes


def check_weights(path, expected) -> None:
    """Raise an error if a weight file holds fewer or more arrays.

    Keras skips what a model does not ask for, and names no file where
    something is missing.

    Args:
        path: of a file that ends in `.weights.h5`.
        expected: how many arrays the model reads from it.
    """
    try:
        found = len(weight_sizes(path))
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {error}") from error
    if found != expected:
        raise ValueError(
            f"{path} must hold {expected} arrays for this model; it holds "
            f"{found}."
        )


class _Presets:
    """Finds presets by our names too, checks them, and writes manifests."""

    @catalogue.classproperty
    def presets(cls) -> dict[str, dict]:
        """Presets of this class: entries of `list_presets()`."""
        return catalogue.presets_of(cls)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        folder = find(preset)
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
            super().save_to_preset(preset_dir, max_shard_size)
            return
        check_target(target)
        with replacing(target, PART) as part:
            super().save_to_preset(str(part), max_shard_size=max_shard_size)
            write_manifest(part)


class BackbonePresets(_Presets):
    """`_Presets` for a backbone."""

    # The folder that weights of a task's head were read from, or AWAITED.
    head_source = None

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
        check_download(self, filepath)
        if str(filepath).endswith(".weights.h5") and not skip_mismatch:
            check_weights(filepath, len(self.weights))
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)


class TaskPresets(_Presets):
    """`_Presets` for a task."""

    _new_head = "; give num_classes for a new head"

    @classmethod
    def _has_head(cls, task):
        """Whether a task of this configuration has a head of its own.

        A causal language model's head is its embedding, and has no file.
        """
        return "num_classes" in task["config"]

    @classmethod
    def _check_complete(cls, folder, kwargs):
        # KerasHub would start a new head, and not say so.
        folder = pathlib.Path(folder)
        task = folder / "task.json"
        if (
            "num_classes" not in kwargs
            and task.is_file()
            and cls._has_head(json.loads(task.read_text()))
            and not (folder / HEAD).is_file()
        ):
            raise ValueError(
                f"preset {folder} lacks its file {HEAD}, the weights of the "
                f"head{cls._new_head}."
            )

    @classmethod
    def from_config(cls, config):
        task = super().from_config(config)
        saved = {"class_name": cls.__name__, "config": config}
        task.backbone.head_source = AWAITED if cls._has_head(saved) else None
        return task

    def load_task_weights(self, filepath):
        self.backbone.head_source = str(pathlib.Path(filepath).parent)
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


@contextlib.contextmanager
def replacing(target, suffix: str = ""):
    """Write a folder whole or not at all.

    Yields the path of a folder to make. When the block ends without an error
    it takes the place of `target`; its parent, for further files of the block,
    is deleted in any case.

    Args:
        target: the folder, see `check_target`.
        suffix: ends the name of the folder to make.
    """
    target = pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        part = pathlib.Path(scratch) / f"{target.name}{suffix}"
        yield part
        _replace(part, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(part, target):
    """Put the finished folder `part` where `target` is or will be."""
    if not target.exists():
        part.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    part.rename(target)
    shutil.rmtree(old)

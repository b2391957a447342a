"""Presets: folders that hold a model, found by name, checked when read.

KerasHub reads and writes the files. Around it, this module knows the presets
that ship with the package, fetches whole repositories of the Hugging Face Hub,
and keeps in each folder a manifest of its files, so that a file that is
missing, cut short or altered is refused instead of read.
"""

import contextlib
import contextvars
import os
import pathlib

import keras

from keras_moe import checks
from keras_moe import files
from keras_moe.models.checkpoints import lora_files
from keras_moe.models.checkpoints import torch_parameters
from keras_moe.models.checkpoints.weight_files import check_weights
from keras_moe.models.checkpoints.weight_files import written_by
from keras_moe.models.presets import bounds
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import configurations
from keras_moe.models.presets import folders
from keras_moe.models.presets.finding import AWAITED
from keras_moe.models.presets.finding import HEAD
from keras_moe.models.presets.finding import check_download
from keras_moe.models.presets.finding import find
from keras_moe.models.presets.manifest import MANIFEST
from keras_moe.models.presets.manifest import check_listed
from keras_moe.models.presets.manifest import read_manifest
from keras_moe.models.presets.manifest import write_manifest

_writing = contextvars.ContextVar("writing", default=None)  # a folder


def check_backbone_arguments(backbone, given: dict) -> None:
    """Raise an error for arguments of a backbone that Keras would ignore."""
    checks.no_others(type(backbone).__name__, given, ("name", "trainable"))


def check_task_arguments(task, given: dict) -> None:
    """Raise an error for arguments of a task that Keras would ignore.

    `from_preset` of a task hands them on too: of the backbone's, a preset's
    task takes `dtype` and `image_shape` alone.
    """
    checks.no_others(
        type(task).__name__, given, ("compile", "name", "trainable")
    )


class _Presets(torch_parameters.TorchParameters):
    """Finds presets by our names too, checks them, and writes manifests."""

    @catalogue.classproperty
    def presets(cls) -> dict[str, dict]:
        """Presets of this class: entries of `list_presets()`."""
        return catalogue.presets_of(cls)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        folder = find(preset)
        configurations.check_model(folder, cls)
        with configurations.naming(folder, cls._configurations, kwargs):
            bounds.check_bounds(folder, "num_classes" in kwargs)
            if load_weights:
                cls._check_complete(folder, kwargs)
            kwargs = {**cls._defaults(folder, kwargs), **kwargs}
            model = super().from_preset(
                folder, load_weights=load_weights, **kwargs
            )
            model._check_read()
        return model

    # Files that models of the class are read from.
    _configurations = (configurations.CONFIG,)

    def _check_read(self):
        """Raise an error if what was read does not fit together."""

    @classmethod
    def _check_complete(cls, folder, kwargs):
        """Raise an error if a weight file is not there that is needed."""

    @classmethod
    def _defaults(cls, folder, given):
        """Arguments of `from_preset` where the caller gives none.

        Args:
            folder: of the preset.
            given: what the caller gives.
        """
        return {}

    def save_to_preset(
        self, preset_dir, max_shard_size=10, overwrite: bool = False
    ):
        """Write a preset folder, whole or not at all.

        Args:
            preset_dir: the folder: new, empty, or a preset of keras_moe. Of
                such a one, the files that its manifest lists are replaced;
                all others stay, such as `.git` and `README.md`.
            max_shard_size: GB of weights in one file.
            overwrite: whether a folder of anything else may be written to,
                and files of a preset that no manifest lists be replaced.

        Raises:
            ValueError: for a folder of anything else, without `overwrite`.
        """
        if os.fspath(preset_dir) == _writing.get():  # a task's backbone
            super().save_to_preset(preset_dir, max_shard_size)
            return
        files.check_space(preset_dir, self.count_params())
        with _part_of(preset_dir, overwrite) as part:
            super().save_to_preset(str(part), max_shard_size=max_shard_size)
            backbone = type(getattr(self, "backbone", self))
            configurations.name_tasks(part, backbone)
            write_manifest(part)


class PartPresets:
    """Finds, checks and writes the part of a preset that reads inputs.

    Of a tokenizer, a preprocessor or an image converter.
    """

    @catalogue.classproperty
    def presets(cls) -> dict[str, dict]:
        """Presets with such a part: entries of `list_presets()`."""
        return catalogue.presets_with(cls)

    @classmethod
    def from_preset(cls, preset, *args, **kwargs):
        """This part of a preset: a name, a folder or a handle.

        Args:
            preset: as in `from_preset` of a model. All its files are held to
                its manifest.
            *args, **kwargs: further arguments of KerasHub's `from_preset`,
                and arguments of the class instead of the saved ones.

        Raises:
            ValueError: where a file is missing or damaged.
        """
        folder = find(preset)
        named = [n for n in (*args[:1], kwargs.get("config_file")) if n]
        for name in named:
            check_listed(folder, name)
        names = [*named, *configurations.OF_PARTS]
        with configurations.naming(folder, names, kwargs):
            return super().from_preset(folder, *args, **kwargs)

    def save_to_preset(self, preset_dir, overwrite: bool = False):
        """Write the files of this part to a preset, or to a new folder.

        Args:
            preset_dir: the folder. Of a preset of keras_moe, the same part is
                replaced and everything else stays.
            overwrite: whether files that no manifest lists may be replaced.
        """
        if os.fspath(preset_dir) == _writing.get():
            super().save_to_preset(preset_dir)
            return
        with _part_of(preset_dir, overwrite, keep=True) as part:
            super().save_to_preset(str(part))
            if (pathlib.Path(preset_dir) / MANIFEST).is_file():
                write_manifest(part, read_manifest(preset_dir))


class BackbonePresets(_Presets):
    """`_Presets` for a backbone."""

    # The folder that weights of a task's head were read from, or AWAITED.
    head_source = None

    @classmethod
    def _defaults(cls, folder, given):
        # KerasHub would forget which layers are quantised, for a backbone.
        config = pathlib.Path(folder) / "config.json"
        if not config.is_file():
            return {}
        config = files.read_json(config, finite=False)
        dtype = config.get("config", {}).get("dtype")
        is_map = isinstance(dtype, dict) and (
            dtype["class_name"] == "DTypePolicyMap"
        )
        return {"dtype": keras.dtype_policies.get(dtype)} if is_map else {}

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        check_download(self, filepath)
        ends = (".weights.h5", ".weights.json")
        try:
            with files.about(filepath):
                if str(filepath).endswith(ends) and not skip_mismatch:
                    check_weights(filepath, written_by(self._flatten_layers()))
                super().load_weights(
                    filepath, skip_mismatch=skip_mismatch, **kwargs
                )
        except files.UnreadableFile as error:
            other = bounds.differences(self, filepath)
            if not other:
                raise
            raise files.UnreadableFile(
                f"{filepath} does not fit {other} of {type(self).__name__}: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def save_lora_weights(self, filepath):
        """Write LoRA's adapters, and every other weight that is trained.

        A task's head is not the backbone's: `save_lora_weights` of the task
        writes it too.

        Args:
            filepath: ends in `.lora.h5`.
        """
        lora_files.save(self, self, filepath, super().save_lora_weights)

    def load_lora_weights(self, filepath):
        """Read what `save_lora_weights` wrote.

        Raises:
            ValueError: for a file of another model, or where the weights that
                were frozen in training are other ones here.
        """
        lora_files.load(self, self, filepath, super().load_lora_weights)


class TaskPresets(_Presets):
    """`_Presets` for a task."""

    _new_head = "; give num_classes for a new head"
    _configurations = (configurations.CONFIG, configurations.TASK)

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
            and cls._has_head(files.read_json(task, finite=False))
            and not (folder / HEAD).is_file()
        ):
            raise files.UnreadableFile(
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
        others = {id(layer) for layer in self.backbone._flatten_layers()}
        own = [x for x in self._flatten_layers() if id(x) not in others]
        with files.about(filepath):
            check_weights(filepath, written_by(own))
            super().load_task_weights(filepath)

    def save_lora_weights(self, filepath):
        """Write the backbone's adapters, and all else that is trained.

        Args:
            filepath: ends in `.lora.h5`.
        """
        write = super(BackbonePresets, self.backbone).save_lora_weights
        lora_files.save(self, self.backbone, filepath, write)

    def load_lora_weights(self, filepath):
        """Read what `save_lora_weights` of a task wrote; see the backbone's."""
        read = super(BackbonePresets, self.backbone).load_lora_weights
        lora_files.load(self, self.backbone, filepath, read)


@contextlib.contextmanager
def _part_of(target, overwrite, keep=False):
    """`replacing`, for files that several objects write."""
    folders.check_target(target, overwrite, keep)
    with folders.replacing(target, overwrite=overwrite, keep=keep) as part:
        token = _writing.set(str(part))
        try:
            yield part
        finally:
            _writing.reset(token)

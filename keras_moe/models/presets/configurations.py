"""Configurations of presets: read strictly, and named in errors about them."""

import contextlib
import pathlib
import re

import keras
import keras_hub

from keras_moe import files
from keras_moe.models.presets.manifest import write_json

CONFIG = "config.json"
TASK = "task.json"
# Objects that Keras wrote. Each is read by a class of its own, and a task
# holds its preprocessor itself; all are looked at, whichever is read.
OBJECTS = (
    CONFIG,
    TASK,
    "preprocessor.json",
    "tokenizer.json",
    "image_converter.json",
    "audio_converter.json",
    "video_converter.json",
)
METADATA = "metadata.json"
VOCABULARY = (
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
)
# What a tokenizer, a preprocessor or an image converter is read from.
OF_PARTS = (CONFIG, *OBJECTS[2:], *VOCABULARY)
# What the content of a file makes Python raise.
OF_CONTENT = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    NotImplementedError,
    FileNotFoundError,  # a configuration may name files
)


def check(folder) -> None:
    """Raise an error naming a configuration that is none.

    Of another library's folder, whose `config.json` has no
    `registered_name`, only that file is looked at.

    Args:
        folder: of a preset. Files that it lacks pass.

    Raises:
        UnreadableFile: for a file that is no JSON object, or holds no object
            of Keras.
    """
    folder = pathlib.Path(folder)
    if not (folder / CONFIG).is_file():
        return
    config = files.read_json(folder / CONFIG, finite=False)
    if "registered_name" not in config:
        return
    for name in (*OBJECTS, METADATA):
        path = folder / name
        if not path.is_file():
            continue
        content = files.read_json(path, finite=False)
        if name != METADATA:
            with files.decoding(path, "configuration of an object of Keras"):
                _check_object(content)


def check_model(folder, model) -> None:
    """Raise an error for a preset of another model than a class reads.

    Args:
        folder: of a preset, whose configurations were checked.
        model: class of a backbone, or of a task with a `backbone_cls`.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.is_file():
        return
    name = files.read_json(path, finite=False).get("registered_name")
    found = keras.saving.get_registered_object(name)
    expected = getattr(model, "backbone_cls", None) or model
    if not isinstance(found, type) or issubclass(found, expected):
        return
    raise ValueError(
        f"preset must be one of {expected.__name__} for {model.__name__}; "
        f"received one of {found.__name__}, {folder}."
    )


def _check_object(content):
    """Raise an error for what Keras, describing an object, does not write.

    What is missing is missed by whatever reads it.
    """
    for key in ("class_name", "registered_name"):
        if not isinstance(content.get(key, ""), str):
            raise ValueError(f"{key} must be a text, not {content[key]!r}")
    config = content.get("config", {})
    if not isinstance(config, dict):
        raise ValueError(f"config must be an object, not {config!r}")
    dtype = config.get("dtype")
    if dtype is not None:
        keras.dtype_policies.get(dtype)


def name_tasks(folder, backbone) -> None:
    """Name KerasHub's kinds of tasks in the metadata of a preset.

    KerasHub writes the first base of each task that has the backbone, which is
    a class of keras_moe for our tasks. A task of no kind, whose base is `Task`
    itself, is left out.

    Args:
        folder: of a preset that was just written.
        backbone: class of its backbone.
    """
    task = keras_hub.models.Task
    classes = {
        base
        for one in keras.saving.get_custom_objects().values()
        if isinstance(one, type)
        and issubclass(one, task)
        and one.backbone_cls is backbone
        for base in one.__mro__[1:]
        if issubclass(base, task) and base is not task
    }
    names = {
        one.__name__
        for one in classes
        if one.__module__.startswith("keras_hub.")
    }
    path = pathlib.Path(folder) / METADATA
    write_json(path, files.read_json(path) | {"tasks": sorted(names)})


@contextlib.contextmanager
def naming(folder, names, arguments):
    """Name the files that a model is read from in errors about them.

    Args:
        folder: of the preset.
        names: of the files in it, such as `["config.json"]`.
        arguments: names of what the caller gave. Errors about these pass, as
            do those of `files`, which name a file.

    Raises:
        UnreadableFile: for whatever else the content of the files makes a
            class raise.
    """
    try:
        yield
    except files.UnreadableFile:
        raise
    except OF_CONTENT as error:
        text = str(error)
        given = "|".join(map(re.escape, arguments))
        if given and re.search(rf"\b({given})\b", text):
            raise
        folder = pathlib.Path(folder)
        there = [name for name in names if (folder / name).is_file()]
        if not there:
            raise
        if not isinstance(error, ValueError):
            text = files.reason(error)
        raise files.UnreadableFile(
            f"preset {folder} cannot be read from its {', '.join(there)}: "
            f"{text}"
        ) from error

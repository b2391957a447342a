"""Search for presets by name or handle, and checks that they are whole."""

import difflib
import os
import pathlib
import re

from keras_moe.addresses import redact
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import configurations
from keras_moe.models.presets import hub
from keras_moe.models.presets.manifest import MANIFEST
from keras_moe.models.presets.manifest import DamagedFile
from keras_moe.models.presets.manifest import check_manifest

KNOWN_SCHEMES = ("kaggle://", "modelscope://", "gs://")
HEAD = "task.weights.h5"
AWAITED = "awaited"  # weights of a head that are still to be read


def resolve(preset: str) -> str:
    """The folder of a preset, fetched from the Hub if it lives there.

    Args:
        preset: a name of `list_presets()` that ships or is on the Hub, a
            folder, or `"hf://organisation/name"` with `"@revision"` behind it
            if wanted. KerasHub's other handles are returned as they are.

    Raises:
        ValueError: for a name of nothing, or of a preset that is to be made
            of a published checkpoint first.
        OSError: where something could not be fetched.
    """
    if not isinstance(preset, (str, os.PathLike)):
        raise ValueError(
            "preset must be a name, a folder or a handle such as "
            f"'hf://organisation/name'; received {preset!r}."
        )
    preset = os.fspath(preset)
    if preset in catalogue.embedded():
        return str(catalogue.FOLDER / preset)
    if preset.startswith(hub.SCHEME):
        return hub.fetch(preset)
    if preset.startswith(KNOWN_SCHEMES) or os.path.isdir(preset):
        return preset
    places = catalogue.places_of(preset)
    if "hub" in places:
        return hub.fetch(places["hub"])
    names = ", ".join(map(repr, catalogue.embedded()))
    raise ValueError(
        f"preset must be one of {names}, a folder that exists or a handle "
        "such as 'hf://organisation/name'; received "
        f"{redact(preset)!r}{_hint(preset, places)}"
    )


def _hint(preset, places):
    """Suggest names close to one that no preset has."""
    if "convertible" in places:
        return (
            f", which is made of {places['convertible']}: give the folder "
            f"that `python -m zoo build {preset}` writes."
        )
    near = difflib.get_close_matches(preset, catalogue.list_presets(), n=1)
    if near:
        return f". Did you mean {near[0]!r}?"
    page = re.fullmatch(
        r"(?:\w+://(?:[^/\s]+/)?)?([\w-][\w.-]*/[\w.-]+)/?", preset
    )
    if page:
        handle = hub.SCHEME + page[1]
        return f". A repository of the Hub is given as {handle!r}."
    return "."


def find(preset: str) -> str:
    """The folder of a preset as `resolve` gives it, held to its manifest.

    Raises:
        UnreadableFile: for a file that is not what its manifest records, and
            for a configuration that is none, with or without a manifest.
    """
    folder = resolve(preset)
    try:
        check_manifest(folder)
    except DamagedFile as error:
        if not hub.is_download(folder):
            raise
        hub.forget(folder, {error.name, MANIFEST})
        raise DamagedFile(
            f"{error} It was {hub.DELETED}", error.name
        ) from error
    configurations.check(folder)
    return folder


def check_download(backbone, path) -> None:
    """Hold the download that a weight file lies in to its manifest.

    `keras_hub.models.ImageClassifier.from_preset` and the other base classes
    fetch file by file, check nothing, and take any error of the Hub for a file
    that is not there: of a head that could not be fetched they start a new one
    and say nothing. All of them end with reading the weights of the backbone,
    where this is called.

    Args:
        backbone: which reads the file, and knows of its task's head.
        path: of the file.

    Raises:
        ValueError, OSError: where anything of the repository is not what it
            should be, or was not read though it should be.
    """
    folder = pathlib.Path(path).parent
    handle = hub.handle_of(folder)
    head, backbone.head_source = backbone.head_source, None
    if handle is None:
        return
    was_there = (folder / HEAD).is_file()
    find(handle)  # fetches what is missing
    if head == AWAITED and not was_there and (folder / HEAD).is_file():
        raise OSError(
            f"{HEAD} of {handle}, the weights of the head, could not be "
            "fetched in time, and the head has new ones. Load the preset once "
            "more."
        )
    if head not in (None, AWAITED, str(folder)):
        raise OSError(
            f"{handle} was changed while it was read: the weights of the head "
            f"are those of {pathlib.Path(head).name}. Load the preset once "
            "more."
        )

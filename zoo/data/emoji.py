"""Emoji in six styles with their names, rendered from packages of npm.

One style is held out whole to measure how a model finds drawings in a manner
it never saw, a small one to choose recipes by. A tenth of the names is held
out in all styles: no drawing with such a name is trained on. Only whole names
are held out. Most of their words occur in names and tags that are trained on.
"""

import hashlib
import json
import os
import pathlib
import typing

import numpy as np
from tqdm import tqdm

from keras_moe import files
from keras_moe import samples
from zoo.data import arrays
from zoo.data import distortion
from zoo.data import icons
from zoo.data import npm
from zoo.data.npm import Package
from zoo.errors import DataError

EMOJI = "emoji"
SIZES = (32, 48, 64)
SIZE = 64  # pixels that recipes read, twice as many as their models
ENVIRONMENT = "KERAS_MOE_EMOJI"
CACHE = pathlib.Path("~/.cache/keras_moe/emoji")
COMMAND = "python -m zoo data emoji"
# Of each style. Names of fxemoji are run together, such as "aerialtramway".
STYLES = {
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
    ),
    "openmoji": Package(
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
    ),
    "emojione": Package(
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "Apache-2.0",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
    ),
}
WITHOUT_WORDS = ("fxemoji",)
VALIDATION, TEST = "fxemoji", "twemoji"
HELD_OUT = 10  # one name in so many
# Of the drawings that ship with the package: groups of emojibase (faces,
# animals and plants, food and drink), and pixels.
SAMPLE_GROUPS, SAMPLE_SIZE = (0, 3, 4), 32


class Drawings(typing.NamedTuple):
    """Drawings, each of one of several names.

    Attributes:
        images: uint8 (n,H,W,3), on white.
        labels: int32 (n,), places of their names in `names`.
        names: strings, all different.
        tags: of each name, words that describe it, maybe none.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]


def folder_of(folder=None) -> pathlib.Path:
    """The folder of packages and rendered drawings.

    Args:
        folder: given, or `None` for what the environment variable
            `KERAS_MOE_EMOJI` names, else a folder of the user's caches.
    """
    given = folder or os.environ.get(ENVIRONMENT) or CACHE
    return pathlib.Path(given).expanduser()


def build(folder=None, size=SIZE) -> pathlib.Path:
    """Fetch the packages, render all drawings, and keep them in one file.

    Args:
        folder: see `folder_of`.
        size: pixels of a side, 32, 48 or 64.

    Returns:
        The file, `emoji_64.npz`, written whole or not at all.

    Raises:
        DataError: where a package cannot be fetched or is not as expected.
    """
    folder = folder_of(folder)
    path = _path(folder, size)
    names = icons.Names(npm.fetched(icons.NAMES, folder))
    found = [
        (style, icon)
        for style, package in STYLES.items()
        for icon in icons.icons(
            package,
            npm.fetched(package, folder),
            names,
            style not in WITHOUT_WORDS,
        )
    ]
    images = [
        icons.render(icon, size) for _, icon in tqdm(found, unit="drawing")
    ]
    tags = {icon.name: names.tags.get(icon.name, ()) for _, icon in found}
    arrays.write(
        path,
        images=np.stack(images),
        styles=np.array([style for style, _ in found]),
        names=np.array([icon.name for _, icon in found]),
        tags=np.array(json.dumps(tags)),
        sources=np.array(_sources()),
        renderer=np.array(icons.renderer()),
    )
    return path


def write_samples(folder=None, path=samples.FOLDER / "emoji.npz"):
    """Write the drawings that ship with the package, from the rendered ones.

    Those of the style that is held out, some groups of them.

    Args:
        folder: see `folder_of`.
        path: of the file.
    """
    names = icons.Names(npm.fetched(icons.NAMES, folder_of(folder)))
    part, _ = emoji(folder)["test"]
    drawn = [part.names[label] for label in part.labels]
    chosen = [
        row
        for row, name in enumerate(drawn)
        if names.groups.get(name) in SAMPLE_GROUPS
    ]
    images = distortion.sharp(part.images[chosen], SAMPLE_SIZE)
    path = pathlib.Path(path)
    arrays.write(
        path, images=images, names=np.array([drawn[row] for row in chosen])
    )
    return path


def emoji(folder=None, size=SIZE):
    """Emoji as a dictionary of parts, which `build` has rendered.

    `"train"` and `"validation"` are `Drawings`; the latter are all of the
    style fxemoji. `"test"` is a pair of `Drawings` of the style twemoji: those
    whose names are among those of training, which are the names to choose
    from, and those of names that no model was trained on.

    Args:
        folder: see `folder_of`.
        size: pixels of a side.

    Raises:
        DataError: where the file is missing, of other packages, or drawn by
            another version of the renderer than the one that is installed.
    """
    path = _path(folder_of(folder), size)
    if not path.is_file():
        raise DataError(
            f"{path} is missing, the rendered emoji. Make it with `{COMMAND}`, "
            "which fetches packages of npm, or give its folder: --data FOLDER, "
            f"or {ENVIRONMENT}=FOLDER."
        )
    with (
        files.decoding(path, f"file of `{COMMAND}`", DataError),
        np.load(path, allow_pickle=False) as file,
    ):
        images, styles, names = (
            file[name] for name in ("images", "styles", "names")
        )
        tags = files.parse_json(str(file["tags"]))
        sources = str(file["sources"])
        drawn_by = str(file["renderer"]) if "renderer" in file else None
    if sources != _sources():
        raise DataError(
            f"{path} was made of other packages; make it again with "
            f"`{COMMAND}`."
        )
    if icons.renderer() not in (None, drawn_by):
        raise DataError(
            f"{path} was drawn by {drawn_by or 'a version it does not name'}, "
            f"and {icons.renderer()} is installed; make it again with "
            f"`{COMMAND}`."
        )
    return split(images, styles, names, tags)


def split(images, styles, names, tags):
    """The parts of the data, see `emoji`.

    Args:
        images: uint8 (n,H,W,3).
        styles: strings (n,).
        names: strings (n,).
        tags: {name: words}.
    """
    held = {name: is_held_out(name) for name in set(names.tolist())}
    held = np.array([held[name] for name in names.tolist()])
    style = {name: styles == name for name in (VALIDATION, TEST)}
    train = ~(style[VALIDATION] | style[TEST] | held)
    known = sorted(set(names[train].tolist()))
    of_known = np.isin(names, known)
    new = style[TEST] & held

    def drawings(chosen, among):
        place = {name: index for index, name in enumerate(among)}
        labels = [place[name] for name in names[chosen].tolist()]
        return Drawings(
            images[chosen],
            np.array(labels, "int32"),
            tuple(among),
            tuple(tuple(tags[name]) for name in among),
        )

    return {
        "train": drawings(train, known),
        "validation": drawings(style[VALIDATION] & of_known, known),
        "test": (
            drawings(style[TEST] & of_known, known),
            drawings(new, sorted(set(names[new].tolist()))),
        ),
    }


def is_held_out(name: str) -> bool:
    """Whether a name is among those held out, which its hash decides."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def _path(folder, size):
    if size not in SIZES:
        raise DataError(
            f"size must be one of {', '.join(map(str, SIZES))}; received "
            f"{size!r}."
        )
    return folder / f"{EMOJI}_{size}.npz"


def _sources() -> str:
    """Files that the drawings are made of, by which a stale cache is known."""
    packages = (icons.NAMES, *STYLES.values())
    return " ".join(package.sha256 for package in packages)

"""Drawings of icon sets: what is in a package, its names, and its pixels."""

import collections
import io
import re
import typing
from importlib import metadata

import numpy as np

from keras_moe import extras
from zoo.data import npm
from zoo.data.npm import Package
from zoo.errors import DataError

NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "MIT",
)
LABELS = "en/data.json"
SHORT_NAMES = (
    "en/shortcodes/cldr.json",
    "en/shortcodes/emojibase.json",
    "en/shortcodes/github.json",
    "en/shortcodes/joypixels.json",
)
# Code points that give a person a skin tone, and the names of such drawings.
TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
TONED = re.compile(r"skin-tone|skin$|-tone\d")
PICTURE = "FE0F"  # asks for a picture rather than a letter; often left out
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" '
    'xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{left} {top} {side} {side}" width="{pixels}" '
    'height="{pixels}">{body}</svg>'
)


class Icon(typing.NamedTuple):
    """A drawing: its name, its box (left, top, width, height), its SVG body."""

    name: str
    box: tuple[float, float, float, float]
    body: str


class Names:
    """Names of emoji, from the file of emojibase-data.

    Args:
        path: of the package's file.

    Attributes:
        tags: {label: words that describe it}, such as `("sad", "face")`.
        groups: {label: number of its group}, such as 4 for food and drink.
    """

    def __init__(self, path):
        entries = npm.read_json(path, LABELS, list)
        with npm.reading(path, LABELS):
            labels = {_code(one["hexcode"]): one["label"] for one in entries}
            self.tags = {
                one["label"]: tuple(one.get("tags", ())) for one in entries
            }
            self.groups = {one["label"]: one.get("group") for one in entries}
        short = collections.defaultdict(set)
        for member in SHORT_NAMES:
            for code, names in npm.read_json(path, member).items():
                for name in [names] if isinstance(names, str) else names:
                    short[letters(name)].add(labels.get(_code(code)))
        self._by_code = labels
        # A short name that several emoji have tells none.
        self._by_letters = {
            name: next(iter(found))
            for name, found in short.items()
            if len(found) == 1 and None not in found
        } | {letters(label): label for label in labels.values()}

    def label(self, name, codes):
        """The label of a drawing, `None` for none of emojibase.

        Args:
            name: of the drawing in its package.
            codes: that the package gives it, maybe none.
        """
        for code in codes:
            if code in self._by_code:
                return self._by_code[code]
        return self._by_letters.get(letters(name))


def letters(name) -> str:
    """Letters and digits of a name, by which sets agree on it."""
    name = name.lower().replace("flag-for-", "flag-")
    return re.sub(r"[^a-z0-9]", "", name)


def _code(hexcode) -> str:
    """Code points of an emoji, without those that only ask for a picture."""
    points = hexcode.upper().split("-")
    return "-".join(point for point in points if point != PICTURE)


def icons(package, path, names, has_words=True) -> list[Icon]:
    """The drawings of a package of Iconify, in the package's order.

    Those with skin tones are left out, and those that the package hides.

    Args:
        package: which one; its licence is held against the file's.
        path: of its file.
        names: `Names`.
        has_words: whether the package writes names as words. Of one that
            does not, only drawings with a label of `names` are read.

    Returns:
        `Icon`s, named by the labels of `names`, else by their own words.

    Raises:
        DataError: where the file is not what it should be.
    """
    info = npm.read_json(path, "info.json")
    content = npm.read_json(path, "icons.json")
    codes = collections.defaultdict(list)
    for code, name in npm.read_json(path, "chars.json").items():
        codes[name].append(_code(code))
    with npm.reading(path, "icons.json and info.json of an icon set"):
        licence = info["license"]["spdx"]
        if licence != package.licence:
            raise DataError(
                f"{path} must be under {package.licence}; it is under "
                f"{licence}."
            )
        found = []
        for name, icon in content["icons"].items():
            tones = {point for c in codes[name] for point in c.split("-")}
            if icon.get("hidden") or TONED.search(name) or tones & TONES:
                continue
            label = names.label(name, codes[name])
            if label is None and not has_words:
                continue
            sides = {"left": 0, "top": 0, "width": 16, "height": 16}
            box = (icon.get(k, content.get(k, v)) for k, v in sides.items())
            label = label or name.replace("-", " ")
            found.append(Icon(label, tuple(map(float, box)), icon["body"]))
    return found


def renderer() -> str | None:
    """The package that `render` draws with, and its version, or `None`."""
    try:
        return f"resvg-py {metadata.version('resvg-py')}"
    except metadata.PackageNotFoundError:
        return None


def render(icon: Icon, pixels: int) -> np.ndarray:
    """A drawing on white as uint8 (pixels,pixels,3), in the middle.

    Fonts of the system are not read, so that pixels are the same everywhere.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise extras.missing("resvg-py", "zoo", "zoo.data.icons") from error
    try:
        from PIL import Image
    except ImportError as error:
        raise extras.missing("Pillow", "zoo", "zoo.data.icons") from error
    left, top, width, height = icon.box
    side = max(width, height)
    svg = SVG.format(
        left=left - (side - width) / 2,
        top=top - (side - height) / 2,
        side=side,
        pixels=pixels,
        body=icon.body,
    )
    picture = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=pixels,
        height=pixels,
        background="#ffffff",
        skip_system_fonts=True,
    )
    with Image.open(io.BytesIO(bytes(picture))) as image:
        return np.asarray(image.convert("RGB"))

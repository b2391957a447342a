"""Small packages of icons and names, as npm writes them, and a small npm."""

import hashlib
import io
import json
import sys
import tarfile

import numpy as np

from zoo.data import emoji
from zoo.data import icons

# {hexcode: (label, tags)}
LABELS = {
    "1F34E": ("red apple", ["apple", "fruit", "red"]),
    "1F614": ("pensive face", ["face", "sad"]),
    "1F44D-FE0F": ("thumbs up", ["hand"]),
}
SQUARE = '<path fill="{}" d="M0 0h{}v4h-{}z"/>'


def package(path, files):
    """Write a package's file, and return its checksum."""
    with tarfile.open(path, "w:gz") as archive:
        for name, value in files.items():
            content = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(path):
    """Write the package of names."""
    entries = [
        {"hexcode": code, "label": label, "tags": tags}
        for code, (label, tags) in LABELS.items()
    ]
    short = dict.fromkeys(icons.SHORT_NAMES, {})
    short[icons.SHORT_NAMES[0]] = {"1F34E": ["apple_red"], "1F614": "pensive"}
    return package(path, {icons.LABELS: entries, **short})


def icon_set(path, licence, drawn=None, codes=None):
    """Write a package of icons: by default three, and three to leave out."""
    drawn = drawn or {
        "apple-red": {"body": SQUARE.format("#f00", 4, 4)},
        "sad": {"body": SQUARE.format("#00f", 2, 2)},
        "own-thing": {"body": SQUARE.format("#0f0", 4, 4), "width": 8},
        "old": {"body": "", "hidden": True},
        "thumbs-up-light": {"body": ""},
        "hand-medium-skin-tone": {"body": ""},
    }
    codes = codes or {
        "1f614": "sad",
        "1f44d-1f3fb": "thumbs-up-light",
        "1f44d": "old",
    }
    content = {
        "icons.json": {"icons": drawn, "width": 4, "height": 4},
        "chars.json": codes,
        "info.json": {"license": {"spdx": licence}},
    }
    return package(path, content)


def registry(folder, monkeypatch):
    """Put all packages of the emoji, small ones, into a folder."""
    folder.mkdir()
    found = icons.NAMES._replace(sha256=names(folder / icons.NAMES.file))
    monkeypatch.setattr(icons, "NAMES", found)
    styles = {
        style: one._replace(sha256=icon_set(folder / one.file, one.licence))
        for style, one in emoji.STYLES.items()
    }
    monkeypatch.setattr(emoji, "STYLES", styles)
    return folder


def client(folder, packages, monkeypatch):
    """Put an `npm` on PATH that packs what lies in the folder `packages`."""
    on_path(
        folder,
        "npm",
        "_, pack, address, _, _, target = sys.argv\n"
        "assert pack == 'pack'\n"
        "name = address.removeprefix('@').replace('/', '-').replace('@', '-')\n"
        f"source = pathlib.Path({str(packages)!r}) / (name + '.tgz')\n"
        "if not source.is_file():\n"
        "    sys.exit('npm error 404 ' + address)\n"
        "shutil.copy(source, target)\n",
        monkeypatch,
    )


def on_path(folder, name, code, monkeypatch):
    """Make a program of Python the only one on PATH."""
    folder.mkdir()
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys\n{code}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def drawings(folder, names):
    """Write the rendered file of drawings of 16 pixels, each a colour."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, found, styles = [], [], []
    for name, colour in zip(names, rng.integers(0, 255, (len(names), 3))):
        for style in emoji.STYLES:
            image = np.full((16, 16, 3), 255, "u1")
            image[4:12, 4:12] = colour
            images.append(image)
            found.append(name)
            styles.append(style)
    np.savez(
        folder / "emoji_64.npz",
        images=np.stack(images),
        names=np.array(found),
        styles=np.array(styles),
        tags=np.array(json.dumps({name: ["warm", "dot"] for name in names})),
        sources=np.array(emoji._sources()),
        renderer=np.array(icons.renderer()),
    )
    return folder

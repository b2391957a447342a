"""Folders that presets are written to, and what of theirs is replaced.

Nothing is replaced but files of the preset that is there. Names that begin
with a dot (`.git`) and the card are never touched.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile

from keras_moe import files
from keras_moe.models.presets.manifest import CARD
from keras_moe.models.presets.manifest import MANIFEST
from keras_moe.models.presets.manifest import READ
from keras_moe.models.presets.manifest import check_name
from keras_moe.models.presets.manifest import is_kept
from keras_moe.models.presets.manifest import read_manifest
from keras_moe.models.presets.manifest import readable

# Weights by the names that KerasHub gives them.
_WEIGHTS = re.compile(r"(model|task|model_\d+)\.weights\.h5")
# What a repository has before there is a model in it.
_BESIDE = (CARD, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def check_target(target, overwrite: bool = False, keep: bool = False) -> None:
    """Refuse a folder to write to that holds anything but a preset of ours.

    Args:
        target: the folder. New, empty (but for a card, a licence and hidden
            files), or with a manifest of keras_moe.
        overwrite: whether it may hold anything, and files of a preset that no
            manifest lists are replaced.
        keep: whether files are only added, so that it may hold anything.

    Raises:
        ValueError: naming the folder, and the file that is in the way.
    """
    target = pathlib.Path(target).resolve()
    if not target.exists():
        return
    remedy = "; overwrite=True replaces what a preset has there, and no more"
    if not target.is_dir():
        raise _refusal(target, "is a file")
    if not (target / MANIFEST).is_file():
        others = [
            path.name
            for path in sorted(target.iterdir())
            if not path.name.startswith(".") and path.name not in _BESIDE
        ]
        if others and not overwrite and not keep:
            raise _refusal(target, f"holds {others[0]}{remedy}")
        return
    listed = {} if overwrite else read_manifest(target)
    for name in readable(target):
        loose = name not in listed
        standard = _is_standard(name)
        if loose and not keep and not (overwrite and standard):
            remedy = remedy if standard else ", which belongs elsewhere"
            raise _refusal(target, f"holds {name}, not of its manifest{remedy}")


@contextlib.contextmanager
def replacing(
    target, suffix: str = "", overwrite: bool = False, keep: bool = False
):
    """Write a folder whole or not at all.

    Yields the path of a folder to make. When the block ends without an error
    it takes the place of `target`, or its files those of the preset there; its
    parent, for further files of the block, is deleted in any case. An error
    leaves no folder above `target` behind that is new and empty.

    Args:
        target: the folder, see `check_target`.
        suffix: ends the name of the folder to make.
        overwrite: see `check_target`.
        keep: whether files of a preset there that have no successor stay.
    """
    target = pathlib.Path(target).resolve()
    # Inside a folder that is there: its parent may be another file system.
    place = target if target.is_dir() else target.parent
    with files.new_parents(target):
        place.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=f".{target.name}.", dir=place)
        try:
            part = pathlib.Path(scratch) / f"{target.name}{suffix}"
            yield part
            put(part, target, overwrite, keep)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def put(part, target, overwrite: bool = False, keep: bool = False) -> None:
    """Put the files of the finished folder `part` where `target` is.

    An error puts everything back. A process that is killed in between leaves
    files that the manifest does not fit, which no model is read from; what
    they replaced lies in the hidden folder that `part` is in.

    Args:
        part: the folder, whose parent is another for files that are replaced.
        target: the folder, new or not.
        overwrite: as in `check_target`.
        keep: whether files of a preset that have no successor stay.
    """
    part, target = pathlib.Path(part), pathlib.Path(target)
    if not target.exists():
        part.rename(target)
        return
    new = {
        path.relative_to(part).as_posix()
        for path in part.rglob("*")
        if path.is_file()
    }
    old = _owned(target, overwrite)
    if keep:
        old &= new
    new = {n for n in new if not (is_kept(n) and (target / n).exists())}
    for name in sorted(old | new):
        place = target / name
        if not place.parent.resolve().is_relative_to(target.resolve()):
            raise _refusal(target, f"leads elsewhere at {name}")
        if name not in old and (place.exists() or place.is_symlink()):
            raise _refusal(
                target,
                f"holds {name}, which no manifest lists; overwrite=True "
                "replaces it",
            )
    # Until all are in place, there is a manifest that they do not fit.
    names = sorted((old | new) - {MANIFEST})
    if MANIFEST in old | new:
        names.insert(len(names) if MANIFEST in old else 0, MANIFEST)
    backup = part.parent / f"{part.name}.old"
    with contextlib.ExitStack() as undo:
        for name in names:
            if name in old:
                _move(target / name, backup / name, undo)
            if name in new:
                _move(part / name, target / name, undo)
        undo.pop_all()
    for name in old - new:
        _remove_empty((target / name).parent, target)


def _owned(target, overwrite):
    """Names of the files in a folder that may be replaced."""
    names = set()
    if (target / MANIFEST).is_file():
        try:
            listed = read_manifest(target)
        except ValueError:
            if not overwrite:
                raise
            listed = {}
        for name in listed:
            check_name(name)
        names = {MANIFEST, *listed}
    if overwrite:
        names |= {name for name in readable(target) if _is_standard(name)}
    return {
        name
        for name in names
        if not is_kept(name) and (target / name).is_file()
    }


def _is_standard(name):
    """Whether KerasHub gives a file of a preset this name."""
    return (
        name in READ
        or name.startswith("assets/")
        or _WEIGHTS.fullmatch(name) is not None
    )


def _move(source, place, undo):
    """Move a file; `undo` moves it back, and removes folders made for it."""
    for folder in reversed(place.parents):
        if not folder.exists():
            folder.mkdir()
            undo.callback(folder.rmdir)
    source.rename(place)
    undo.callback(place.rename, source)


def _remove_empty(folder, target):
    """Remove a folder that nothing is left in, and its parents likewise."""
    while folder != target and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _refusal(target, reason):
    return ValueError(
        "the folder of a preset must be new, empty or a preset of keras_moe "
        f"to replace; {str(target)!r} {reason}."
    )

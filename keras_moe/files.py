"""Reading files that others may have written: JSON, and codecs' errors.

Whatever is wrong with such a file, the error is one class, and names the file.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import shutil

# No file that this package reads needs more, and what reads the values goes
# down a level at a time itself.
DEPTH = 100
LARGEST = 2**63 - 1


class UnreadableFile(ValueError):
    """A file that is missing, damaged, or not of the form expected."""


@contextlib.contextmanager
def decoding(path, form: str, error: type = UnreadableFile):
    """Turn whatever a codec raises into one error that names the file.

    Args:
        path: of the file.
        form: what it must be, such as `"whole file of torch.save"`.
        error: class of the error, which is raised with one line of text. Its
            own instances, and packages that are not installed, pass.
    """
    try:
        yield
    except (error, ImportError):
        raise
    # Damaged bytes may raise anything: RecursionError, OverflowError, ….
    except Exception as cause:
        raise error(f"{path} is no {form}: {reason(cause)}") from cause


@contextlib.contextmanager
def about(path, error: type = UnreadableFile):
    """Name a file in the errors that do not.

    Args:
        path: of a file, a folder, or what the names of several files begin
            with. It is put in front of the text of a `ValueError` without it.
        error: class of the errors.
    """
    try:
        yield
    except ValueError as cause:
        text = str(cause)
        # A path as short as "in" is a part of many words.
        named = rf"(?<![\w./-]){re.escape(str(path))}(?!\w)"
        if not re.search(named, text):
            text = f"{path}: {text}"
        elif isinstance(cause, error):
            raise
        raise error(text) from cause


@contextlib.contextmanager
def new_parents(path):
    """Delete folders above a path that an error leaves behind, new and empty.

    Args:
        path: of what the block writes.
    """
    parents = pathlib.Path(path).absolute().parents
    new = [parent for parent in parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in new:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


@contextlib.contextmanager
def whole(part, path):
    """Put a file that the block writes in the place of another, or of none.

    Args:
        part: what the block writes, beside `path`; an error deletes it.
        path: of the file.

    Raises:
        OSError: naming `path`, where it cannot be written.
    """
    part, path = pathlib.Path(part), pathlib.Path(path)
    try:
        yield
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        found = system_error(error, path)
        if found is None or found is error:
            raise
        raise found from error


def check_space(folder, numbers: int) -> None:
    """Raise an error if a file of weights would fill the disk.

    HDF5 may end the process where it cannot write the rest of a file.

    Args:
        folder: that the file will lie in, new or not.
        numbers: how many numbers of 4 bytes the file will hold.

    Raises:
        OSError: naming the folder.
    """
    folder, size = pathlib.Path(folder).absolute(), 4 * numbers
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        text = os.strerror(errno.ENOSPC)
        raise OSError(
            errno.ENOSPC,
            f"{text}: {size:,} bytes are needed, {free:,} are free",
            str(folder),
        )


def system_error(error: BaseException, path=None) -> OSError | None:
    """The system's error that an error is of, `None` if it is another.

    Args:
        error: any. Those of h5py have number and file in their text alone,
            and some are no `OSError`.
        path: of the file, where the error does not name one.
    """
    number, name = getattr(error, "errno", None), None
    if number and getattr(error, "filename", None):
        return error
    if isinstance(error, (OSError, RuntimeError)):
        form = r"filename = '(.*?)',.*errno = (\d+)"
        found = re.search(form, str(error), re.S)
        if found:
            name, number = found[1], int(found[2])
    if not number:
        return None
    name = path or name
    named = () if name is None else (str(name),)
    return OSError(number, os.strerror(number), *named)


def reason(error: BaseException) -> str:
    """One line that says what an error was."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def read_json(
    path, kind: type = dict, *, finite: bool = True, error=UnreadableFile
):
    """The value of a JSON file.

    It must be UTF-8, with or without a byte order mark, at most 100 levels
    deep, without a key that occurs twice in an object, and its integers must
    fit 64 bits.

    Args:
        path: of the file.
        kind: what the value must be, `dict` or `list`.
        finite: whether to refuse `NaN` and `Infinity`, which JSON has not and
            Python writes.
        error: class of the error.

    Raises:
        UnreadableFile: or `error`, naming the file; also for a file that is
            missing or must not be read.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_moe import files
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "a.json").write_text('{"b": [1, 2]}')
    13
    >>> files.read_json(folder / "a.json")
    {'b': [1, 2]}
    """
    with decoding(path, "readable JSON file", error):
        text = pathlib.Path(path).read_bytes().decode("utf-8-sig")
        value = parse_json(text, finite)
    if not isinstance(value, kind):
        raise error(
            f"{path} must hold a JSON {_KINDS[kind]}; it holds {_short(value)}."
        )
    return value


def parse_json(text: str, finite: bool = True):
    """The value of a JSON text, see `read_json`.

    Raises:
        ValueError: for a text that is none.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real if finite else None,
            parse_constant=_constant if finite else None,
        )
    except RecursionError:
        value = None
        levels = DEPTH + 1
    else:
        levels = _depth(value)
    if levels > DEPTH:
        raise ValueError(f"it has more than {DEPTH} levels")
    if "\\u" in text:  # half of a pair cannot be written again
        json.dumps(value, ensure_ascii=False).encode()
    return value


_KINDS = {dict: "object", list: "list"}


def _short(value):
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _object(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f"the key {twice!r} occurs twice in an object")
    return found


def _integer(text):
    # Python reads digits in a time that grows with their square.
    value = int(text) if len(text) <= 20 else math.inf
    if abs(value) > LARGEST:
        raise ValueError(f"the integer {_short(text)} does not fit 64 bits")
    return value


def _real(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _constant(text):
    raise ValueError(f"{text} is no number of JSON")


def _depth(value):
    """Levels of lists and dictionaries, counted without a recursion."""
    levels, layer = 0, [value]
    while layer:
        layer = [
            inner
            for one in layer
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        levels += 1
    return levels

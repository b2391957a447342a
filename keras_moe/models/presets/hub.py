"""Downloads from the Hugging Face Hub: whole, inside their folder, or refused.

`huggingface_hub` fetches and caches. What it leaves open is looked at here:
that nothing in a download points out of it, that each file has the checksum
that the Hub gave for it, which the cache names files by, and that no name the
Hub gives leads out of the cache. No error tells the credentials of an address.
"""

import contextlib
import errno
import hashlib
import io
import pathlib
import re

from keras_moe.addresses import harmless
from keras_moe.addresses import redact
from keras_moe.models.presets.hub_answers import answers_checked
from keras_moe.models.presets.manifest import MANIFEST
from keras_moe.models.presets.manifest import DamagedFile

SCHEME = "hf://"
BLOBS = "blobs"
# Why a file of the cache cannot be written, whatever the Hub sends.
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EROFS,
)
_LOGIN = "Log in with a token that may read it: `hf auth login`."
_WRITER = "Log in with a token that may write to it: `hf auth login`."
_LATER = "It wants fewer requests: try again in some minutes."
_CHANGED = "It was changed meanwhile: run the same once more."
_AGAIN = "Check the connection, and try again"
# By the status that the Hub answered; `None` is any other, or no answer.
READING = {
    401: _LOGIN,
    403: _LOGIN,
    429: _LATER,
    None: f"{_AGAIN}; what arrived whole is kept.",
}
WRITING = {
    401: _WRITER,
    403: _WRITER,
    409: _CHANGED,
    412: _CHANGED,
    429: _LATER,
    None: f"{_AGAIN}.",
}
DELETED = (
    "deleted from the cache of downloads: load the preset once more to fetch "
    "it anew."
)


def fetch(handle: str) -> str:
    """The folder of a repository of the Hub, downloaded or from the cache.

    Args:
        handle: `"hf://organisation/name"`, with `"@revision"` (a branch, a tag
            or a commit) behind it if wanted.

    Raises:
        ValueError: for a handle of another form, or a download with files
            that are not what they should be.
        OSError: where something could not be fetched.
    """
    from huggingface_hub import snapshot_download

    name, mark, revision = handle.removeprefix(SCHEME).partition("@")
    if not re.fullmatch(r"[^/]+/[^/]+", name) or (mark and not revision):
        raise ValueError(
            "a handle must be 'hf://organisation/name', with '@revision' "
            f"behind it if wanted; received {handle!r}."
        )
    if ".." in revision.split("/"):
        raise ValueError(
            f"'@revision' must be a branch, a tag or a commit; received "
            f"{handle!r}."
        )
    try:
        with answers_checked():
            folder = snapshot_download(name, revision=revision or None)
    except ValueError as error:  # a name that it takes for none, or unsafe
        raise ValueError(
            f"{handle!r} cannot be fetched: {redact(str(error))}"
        ) from harmless(error)
    except Exception as error:
        # Its HTTP client has errors of its own, beside OSError.
        lacking = _lacking(name, revision or None)
        files = f" (it lacks {', '.join(lacking)})" if lacking else ""
        raise OSError(
            f"{handle} could not be fetched{files}: "
            f"{redact(_reason(error, name, revision))}"
        ) from harmless(error)
    _check(pathlib.Path(folder), handle)
    return folder


@contextlib.contextmanager
def requests(name: str, error: type = OSError, advice: dict = READING):
    """Turn whatever a request to the Hub raises into one error.

    Args:
        name: `"organisation/name"` that the block's requests are about.
        error: class of the error.
        advice: `READING` or `WRITING`.
    """
    try:
        yield
    # Beside OSError: errors of the HTTP client, and of answers of another
    # form, such as the page of a proxy.
    except Exception as cause:
        known = isinstance(cause, OSError) or not isinstance(cause, ValueError)
        reason = _reason(cause, name, None, advice) if known else str(cause)
        raise error(f"{SCHEME}{name}: {redact(reason)}") from harmless(cause)


def checksums(content) -> tuple[str, str]:
    """The Hub's name of a file: SHA-256 if large, else git's identifier.

    Args:
        content: bytes, or the path of a file.
    """
    in_memory = isinstance(content, bytes)
    with io.BytesIO(content) if in_memory else open(content, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        while block := file.read(2**20):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest(), git.hexdigest()


def is_download(folder) -> bool:
    """Whether a folder lies in the cache of `huggingface_hub`."""
    folder = pathlib.Path(folder)
    return folder.parent.name == "snapshots" and _blobs(folder).is_dir()


def handle_of(folder) -> str | None:
    """The handle of a download, by its commit.

    `None` for a folder that is not in the cache that `fetch` reads.
    """
    from huggingface_hub import constants

    folder = pathlib.Path(folder).resolve()
    cache = pathlib.Path(constants.HF_HUB_CACHE).resolve()
    repository = folder.parent.parent  # snapshots of it lie below
    kind, *names = repository.name.split("--")
    if (
        not is_download(folder)
        or repository.parent != cache
        or kind != "models"
    ):
        return None
    return f"{SCHEME}{'/'.join(names)}@{folder.name}"


def forget(folder, names) -> None:
    """Delete files from the cache, so that they are fetched anew.

    Args:
        folder: of a download.
        names: of files in it.
    """
    for name in names:
        path = pathlib.Path(folder) / name
        blob = path.resolve()
        path.unlink(missing_ok=True)
        if blob.parent == _blobs(folder):
            blob.unlink(missing_ok=True)


def _reason(error, name, revision, advice=READING):
    """Error of reading or writing the Hub, with a remedy."""
    from huggingface_hub import constants
    from huggingface_hub import errors

    # What says more is often the cause of what is raised.
    cause = error if error.__cause__ is None else error.__cause__
    for one in (error, cause):
        response = getattr(one, "response", None)
        status = "" if response is None else f" ({response.status_code})"
        if isinstance(one, errors.GatedRepoError):
            return (
                f"access to {name} must be asked for on its page, and needs a "
                f"login: `hf auth login`{status}."
            )
        if isinstance(one, errors.RepositoryNotFoundError):
            return (
                f"the Hub has no repository of models {name!r}, or it is "
                "private. Check the name; a private one needs a login: `hf "
                f"auth login`{status}."
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return f"{name} has no branch, tag or commit {revision!r}{status}."
        if isinstance(one, errors.OfflineModeIsEnabled):
            return (
                "HF_HUB_OFFLINE is set, and the cache "
                f"{constants.HF_HUB_CACHE} does not hold all of it."
            )
        if getattr(one, "errno", None) in UNWRITABLE:
            return (
                f"the cache {constants.HF_HUB_CACHE} cannot be written: {one}. "
                "Make room there, or name another folder by HF_HUB_CACHE."
            )
    # HTTP's errors add a line of where to read about them.
    first = str(cause).partition("\n")[0] or type(cause).__name__
    response = getattr(cause, "response", None)
    status = None if response is None else response.status_code
    helps = advice.get(status, advice[None])
    return f"{first.rstrip('.')} (from {constants.ENDPOINT}). {helps}"


def _lacking(name, revision):
    """Files of a repository that the cache knows of and does not hold."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(name, revision=revision)
    except CachedRepoTreeNotFoundError:
        return []  # nothing was fetched, not even the names
    return [
        file.path
        for file in files
        if try_to_load_from_cache(name, file.path, revision=revision) is None
    ]


def _blobs(folder):
    """Folder of the cache with the files that a download's links point to."""
    return pathlib.Path(folder).resolve().parent.parent / BLOBS


def _check(folder, handle):
    """Raise an error for a file that points elsewhere or was altered."""
    for path in sorted(folder.rglob("*")):
        name, real = path.relative_to(folder).as_posix(), path.resolve()
        if real.parent != _blobs(folder):
            if not real.is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{name} of {handle} points to a file outside of the "
                    "download, and is not read."
                )
            continue
        # What a manifest lists is held to the manifest.
        if not (folder / MANIFEST).is_file() and _altered(real):
            forget(folder, {name})
            raise DamagedFile(
                f"{name} of {handle} does not have the checksum that the Hub "
                f"gives for it, {real.name}; it was {DELETED}",
                name,
            )


def _altered(blob):
    """Whether a cached file is not what its name, a checksum, says."""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return False  # a mirror may name files otherwise
    return blob.name not in checksums(blob)

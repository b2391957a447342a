"""Answers of a Hub, checked: no name in them leads out of the cache."""

import contextlib
import re


@contextlib.contextmanager
def answers_checked():
    """Look at what the Hub answers before anything is written by its names.

    `huggingface_hub` names files of its cache by checksums and commits as the
    server gives them, wherever such a name leads.
    """
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks["response"]
    hooks.append(_check_answer)
    try:
        yield
    finally:
        hooks.remove(_check_answer)


def _check_answer(response):
    """Raise an error if an answer gives the cache a name out of its folder."""
    headers = response.headers
    _check_cache_name("X-Repo-Commit", headers.get("X-Repo-Commit"))
    if response.request.method == "HEAD":
        etag = headers.get("X-Linked-ETag") or headers.get("ETag") or ""
        _check_cache_name("ETag", etag.removeprefix("W/").strip('"'))
    path = response.url.path
    if (
        response.is_success
        and "/api/" in path
        and "json" in headers.get("Content-Type", "json")
    ):
        response.read()
        try:
            rows = response.json()
        except ValueError:
            return  # huggingface_hub says so
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                lfs = row.get("lfs")
                _check_cache_name("sha", row.get("sha"))
                _check_cache_name("oid", row.get("oid"))
                if isinstance(lfs, dict):
                    _check_cache_name("oid", lfs.get("oid"))


def _check_cache_name(kind, value):
    if isinstance(value, str) and (
        value in (".", "..") or re.search(r"[/\\\0]|^\w:", value)
    ):
        raise ValueError(
            f"the server gives the {kind} {value!r}, which cannot name a file "
            "in the cache of downloads."
        )

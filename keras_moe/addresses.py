"""Addresses in messages, without what must stay secret."""

import re

# What stands for a secret.
HIDDEN = "***"


def redact(text: str) -> str:
    """A text without the secrets of addresses and of the Hub.

    Those of an address are the user's name and password, and the query, which
    may be signed. Those of the Hub are its tokens.
    """
    text = re.sub(
        r"(\b[a-z][a-z0-9+.-]*://)[^/\s]*@", rf"\1{HIDDEN}@", text, flags=re.I
    )
    text = re.sub(r"(://[^\s?'\"]*\?)[^\s'\"]*", rf"\1{HIDDEN}", text)
    text = re.sub(r"\bhf_\w{8,}", f"hf_{HIDDEN}", text)
    return re.sub(r"(\bBearer )[^\s'\"]+", rf"\1{HIDDEN}", text)


def harmless(error: BaseException) -> BaseException | None:
    """The cause of an error to raise; `None` if it would show a secret."""
    one, seen = error, set()
    while one is not None and id(one) not in seen:
        if redact(str(one)) != str(one):
            return None
        seen.add(id(one))
        one = one.__cause__ or one.__context__
    return error

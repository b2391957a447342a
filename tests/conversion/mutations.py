"""Files changed at random, the same way in each run."""

import copy
import json

import numpy as np

# Values that no file should have where it has others.
VALUES = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**64,
    10**400,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "é" * 300,
    "../../etc/passwd",
    [],
    [0],
    [None, "a"],
    {},
    {"class_name": None},
    {"a": {"b": [1]}},
)
ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "cp037")


def of_bytes(content: bytes, rng) -> tuple[bytes, int | None]:
    """A change of one place of a file.

    Returns:
        The new content, and how many bytes have others in their place; `None`
        where bytes came or went, so that all behind them have moved.
    """
    size = len(content)
    kind = rng.integers(6)
    start = int(rng.integers(size))
    # Short spans at all places, and now and then long ones.
    span = int(min(size - start, 2 ** rng.integers(1, 10)))
    before, part = content[:start], content[start : start + span]
    after = content[start + span :]
    if kind == 0:
        flipped = bytes([part[0] ^ (1 << rng.integers(8))])
        return before + flipped + content[start + 1 :], 1
    if kind == 1:
        other = bytes([part[0] ^ int(rng.integers(1, 256))])
        return before + other + content[start + 1 :], 1
    if kind == 2:
        return before, None
    if kind == 3:
        return before + bytes(span) + after, span
    if kind == 4:
        return before + part + part + after, None
    return before + rng.bytes(span) + part + after, None


def of_json(content: bytes, rng) -> bytes:
    """A JSON file with another value somewhere, or no JSON any more."""
    kind = rng.integers(10)
    if kind == 0:
        return of_bytes(content, rng)[0]
    if kind == 1:
        encoding = ENCODINGS[rng.integers(len(ENCODINGS))]
        return content.decode().encode(encoding)
    value = json.loads(content)
    places = list(_places(value))
    if kind == 2:  # as deep as a parser goes, and deeper
        levels = int(10 ** rng.integers(1, 6))
        new = "§"
        text = _with(value, places, new, rng)
        deep = "[" * levels + "]" * levels
        return text.replace(json.dumps(new), deep).encode()
    new = VALUES[rng.integers(len(VALUES))]
    return _with(value, places, new, rng).encode()


def _places(value, place=()):
    """Paths of all values of a JSON value."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*place, index))


def _with(value, places, new, rng):
    """A value's text with another one at a place, or with none there."""
    place = places[rng.integers(len(places))]
    if not place:
        return json.dumps(new)
    value = copy.deepcopy(value)
    *parents, last = place
    inner = value
    for key in parents:
        inner = inner[key]
    if rng.integers(4) == 0:
        del inner[last]
    else:
        inner[last] = new
    return json.dumps(value)


def hurt(found: dict, wanted: dict) -> int:
    """How many numbers of arrays, equal in names and sizes, differ.

    Their axes may be others, as those of a model with other heads.
    """
    assert set(found) == set(wanted)
    count = 0
    for name, array in wanted.items():
        assert found[name].size == array.size, name
        count += int(np.sum(found[name].ravel() != array.ravel()))
    return count

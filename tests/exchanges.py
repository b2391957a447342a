"""Exchanges between devices, in the text of a compiled program."""

import re

KINDS = (
    "all-to-all",
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
)
_EXCHANGE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(?:-start)?\(")


def found(text):
    """(kind, [(dtype, shape)…]) of each, such as `("all-gather", …)`."""
    return [(kind, _arrays(what)) for what, kind in _EXCHANGE.findall(text)]


def _arrays(what):
    """Of an HLO type, such as `(f32[8,4]{1,0}, f32[2]{0})`."""
    return [
        (dtype, tuple(int(n) for n in shape.split(",") if n))
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", what)
    ]

"""What the parts share: an item, and the implementations that serve a plan."""

from collections.abc import Callable
from typing import NamedTuple

from keras_moe import ops as moe_ops
from tests.accelerator.chip import BACKEND


class Item(NamedTuple):
    """One thing to do: `run()` returns rows of a table, or raises."""

    table: str
    label: str
    run: Callable


def kinds() -> list:
    """The kinds of plans that some implementation serves."""
    served = (k for i in moe_ops.IMPLEMENTATIONS.values() for k in i.plans)
    return list(dict.fromkeys(served))


def names(kind) -> list:
    """The implementations of plans of a kind on this backend."""
    return [
        name
        for name, one in moe_ops.IMPLEMENTATIONS.items()
        if kind in one.plans and BACKEND in one.backends
    ]


def serves(name, plan, dtype) -> bool:
    """Whether an implementation serves a plan of tokens of a dtype."""
    facts = moe_ops.facts(plan, dtype)
    return not moe_ops.IMPLEMENTATIONS[name].obstacle(facts)

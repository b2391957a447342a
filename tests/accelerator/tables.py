"""Times of routing and of layers on the device.

Each implementation against the reference, turn by turn, and against one matrix
product that is run so often that it multiplies as much. `F` is forward, `FB`
with the gradients of all arrays.
"""

import functools
import statistics

from tests.accelerator import layers
from tests.accelerator import routes
from tests.accelerator import sizes
from tests.accelerator.chip import clock
from tests.accelerator.items import Item
from tests.benchmarks import timing

TURNS = 5
DTYPE = "bfloat16"
ROUTED = (
    {"groups": 4, "tokens": 4096, "features": 768, "experts": 32},
    {"groups": 64, "tokens": 256, "features": 768, "experts": 32},
)
LAYER = {**ROUTED[0], "hidden": 3072}


def items(chip):
    """What matters most first: what is not reached in time is not there."""
    for full in ROUTED:
        size = sizes.fitted(full, routed_bytes, chip.free)
        for kind in routes.KINDS:
            yield from _modes(f"{kind}_routing", routing, kind, DTYPE, size)
        if full is ROUTED[0]:
            fits = sizes.fitted(LAYER, layers.needed, chip.free)
            for label in layers.LAYERS:
                yield from _modes("layers", whole, label, DTYPE, fits)
    yield from _modes("soft_routing", routing, "soft", "float32", size)


def _modes(table, function, what, dtype, size):
    for mode in timing.MODES:
        run = functools.partial(function, what, mode, dtype, size)
        numbers = " ".join(f"{name} {number}" for name, number in size.items())
        yield Item(table, f"{what} {mode} {dtype}, {numbers}", run)


def routed_bytes(groups, tokens, features, experts):
    """Of a training step with the plain formulas, from above."""
    return groups * tokens * (64 * tokens + 64 * features)


def routing(kind, mode, dtype, size):
    functions, arrays = routes.KINDS[kind](**size, dtype=dtype)
    runs = {
        name: functools.partial(timing.MODES[mode](one), *arrays)
        for name, one in functions.items()
    }
    groups, tokens, features, _ = size.values()
    often = routes.PRODUCTS[kind] * {"F": 1, "FB": 3}[mode]
    runs["products"] = sizes.products(
        groups * tokens,
        features,
        tokens,
        dtype,
        often * groups * tokens * tokens * features,
    )
    columns = {"op": f"{kind} dispatch and combine", "mode": mode, **size}
    return compared({**columns, "dtype": dtype}, runs)


def whole(label, mode, dtype, size):
    runs = {}
    for name in layers.serving(label, dtype):
        function, arrays = layers.build(label, name, **size, dtype=dtype)
        wrapped = timing.MODES[mode](function)
        runs[name] = functools.partial(wrapped, *arrays)
    often = {"F": 1, "FB": 3}[mode]
    runs["products"] = sizes.products(
        size["groups"] * size["tokens"],
        size["features"],
        size["hidden"],
        dtype,
        often * layers.multiplications(label, **size),
    )
    columns = {"op": "layer", "mode": mode, "layer": label, **size}
    return compared({**columns, "dtype": dtype}, runs)


def compared(columns, runs):
    """Rows of all: seconds, and ratios to the reference and the products."""
    seconds = timing.paired(runs, (), TURNS, clock)
    for found in timing.against(seconds, "reference"):
        pairs = zip(seconds[found["of"]], seconds["products"])
        ratio = statistics.median(one / other for one, other in pairs)
        yield {**columns, **found, "/products": f"{ratio:.3f}"}

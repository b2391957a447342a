"""The memory that a training step takes at its peak, beyond its arrays.

`peak_mib` is what the device had allocated at most. On JAX it is left out where
an earlier step took more, as it cannot be reset, and `temporary_mib` is what
the compiler says.
"""

import functools

from tests.accelerator import chip as chips
from tests.accelerator import layers
from tests.accelerator import routes
from tests.accelerator import sizes
from tests.accelerator import tables
from tests.accelerator.items import Item
from tests.accelerator.tables import DTYPE
from tests.benchmarks import timing


def items(chip):
    size = sizes.fitted(tables.ROUTED[0], tables.routed_bytes, chip.free)
    for kind, make in routes.KINDS.items():
        label = f"{kind} routing"
        run = functools.partial(routing, kind, make, size)
        yield Item("memory", label, run)
    size = sizes.fitted(tables.LAYER, layers.needed, chip.free)
    for layer in layers.LAYERS:
        run = functools.partial(whole, layer, size)
        yield Item("memory", layer, run)


def routing(kind, make, size):
    functions, arrays = make(**size, dtype=DTYPE)
    rows = []
    for name, function in functions.items():
        found = measured(function, arrays)
        what = f"{kind} dispatch and combine"
        rows.append(row(what, {**size, "hidden": ""}, name, found))
    return rows


def whole(label, size):
    rows = []
    for name in layers.serving(label, DTYPE):
        function, arrays = layers.build(label, name, **size, dtype=DTYPE)
        rows.append(row(label, size, name, measured(function, arrays)))
    return rows


def row(what, size, name, found):
    sizes = {**size, "dtype": DTYPE, "of": name}
    return {"op": "memory", "mode": "FB", "what": what, **sizes, **found}


def measured(function, arrays) -> dict:
    """Columns of one training step: the gradients of all arrays."""
    if chips.BACKEND == "jax":
        return _on_jax(function, arrays)
    peak = ""
    step = timing.forward_backward(function)
    if chips.on_cuda():
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(*arrays)
        torch.cuda.synchronize()
        peak = mib(torch.cuda.max_memory_allocated() - before)
    else:
        step(*arrays)
    return {"temporary_mib": "", "peak_mib": peak}


def _on_jax(function, arrays):
    import jax

    program = jax.jit(timing.jax_gradients(function)).lower(*arrays).compile()
    before = _peak()
    jax.block_until_ready(program(*arrays))
    after = _peak()
    taken = after["peak_bytes_in_use"] - before["bytes_in_use"]
    known = after["peak_bytes_in_use"] > before["peak_bytes_in_use"]
    temporary = program.memory_analysis().temp_size_in_bytes
    return {
        "temporary_mib": mib(temporary),
        "peak_mib": mib(taken) if known else "",
    }


def _peak():
    import jax

    none = {"peak_bytes_in_use": 0, "bytes_in_use": 0}
    return jax.devices()[0].memory_stats() or none


def mib(size):
    return round(size / 2**20, 1)

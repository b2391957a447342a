"""What the benchmarks share: taking turns, gradients, memory, tables.

Competitors take turns in one process, so that what else the machine does slows
all of them alike, and a table tells ratios turn by turn. On CPUs the time is
the process' own CPU time, which other work hardly changes; threads that share
a product add up. `OMP_NUM_THREADS=1` makes it the time of one core.
"""

import csv
import importlib.metadata
import math
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from keras import ops

from tests.benchmarks.memory import peak

BACKEND = keras.backend.backend()
RESULTS = pathlib.Path(__file__).parent / "results"
clock = time.process_time


def tensors(arrays):
    return [ops.convert_to_tensor(a) for a in arrays]


def forward(function):
    """`function` of tensors, compiled where that is usual."""
    if BACKEND == "jax":
        import jax

        compiled = jax.jit(function)
        return lambda *arrays: jax.block_until_ready(compiled(*arrays))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import torch

    return torch.no_grad()(function)


def forward_backward(function):
    """The gradients of the sum of squares of `function`."""

    def loss(*arrays):
        return ops.sum(ops.square(function(*arrays)))

    if BACKEND == "jax":
        return forward(jax_gradients(function))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(*arrays):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                value = loss(*arrays)
            return tape.gradient(value, arrays)

        return step
    import torch

    def step(*arrays):
        arrays = [a.detach().requires_grad_() for a in arrays]
        return torch.autograd.grad(loss(*arrays), arrays)

    return step


def jax_gradients(function):
    """The same on JAX, not compiled."""
    import jax

    def loss(*arrays):
        return ops.sum(ops.square(function(*arrays)))

    def step(*arrays):
        return jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)

    return step


MODES = {"F": forward, "FB": forward_backward}


def layer_of_arrays(layer, shape):
    """A built layer as a function of tokens and weights, and such arrays."""
    if not layer.built:
        layer.build(shape)
    tokens = np.random.default_rng(0).normal(size=shape).astype("float32")
    weights = [w.numpy() for w in layer.trainable_variables]

    def function(tokens, *weights):
        return layer.stateless_call(weights, [], tokens)[0]

    return function, tensors([tokens, *weights])


def product_of(mode, multiplications):
    """One large product, so often that it has this many multiplications.

    With gradients there are three times as many. What `paired` measures is one
    product, weighed by how often it would have to be run.
    """
    rows, inner, columns = 3136, 384, 1536
    rng = np.random.default_rng(0)
    pair = tensors(
        rng.normal(size=shape).astype("float32")
        for shape in ((rows, inner), (inner, columns))
    )
    run = forward(ops.matmul)

    def product(*others):
        return run(*pair)

    often = {"F": 1, "FB": 3}[mode] * multiplications
    product.times = often / (rows * inner * columns)
    return product


SHORTEST = 0.02  # seconds that a turn lasts at least


def paired(functions: dict, arrays, turns: int, clock=clock) -> dict:
    """Seconds of each of the functions, one after another in each turn.

    What is quick is run several times in a turn. A function that has `times`
    stands for that many runs of it. `clock` tells seconds.
    """
    runs = {}
    for name, function in functions.items():
        function(*arrays)  # compile
        once = _timed(function, arrays, 1, clock)
        runs[name] = math.ceil(SHORTEST / max(once, 1e-5))
    seconds = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            passed = _timed(function, arrays, runs[name], clock)
            seconds[name].append(passed * getattr(function, "times", 1))
    return seconds


def _timed(function, arrays, runs, clock):
    """Mean seconds of a run."""
    start = clock()
    for _ in range(runs):
        function(*arrays)
    return (clock() - start) / runs


def against(seconds: dict, first: str):
    """Columns: medians, and ratios to the first with their spread."""
    for name, times in seconds.items():
        columns = {"of": name, "seconds": f"{statistics.median(times):.5f}"}
        ratios = [t / f for t, f in zip(times, seconds[first])]
        columns[f"/{first}"] = f"{statistics.median(ratios):.3f}"
        columns["smallest"] = f"{min(ratios):.3f}"
        columns["largest"] = f"{max(ratios):.3f}"
        yield columns


def compared(op, sizes, functions, arrays, turns):
    """Rows of F and FB: functions of the same arrays against the first."""
    for mode, wrap in MODES.items():
        wrapped = {name: wrap(one) for name, one in functions.items()}
        seconds = paired(wrapped, arrays, turns)
        for columns in against(seconds, next(iter(functions))):
            yield {"op": op, "mode": mode, **sizes, **columns}


def words_of(module: str, *arguments, env=None) -> list[str]:
    """What `python -m module arguments` prints, in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.split()


def in_fresh_process(module: str, *arguments) -> dict:
    """Columns that `python -m module arguments` prints, by `print_peak`."""
    seconds, mib = words_of(module, *arguments)[-2:]
    return {"seconds": seconds, "peak_extra_mib": int(mib)}


def print_peak(small, large):
    """Run `small` to load and warm up, then `large`: its seconds and MiB.

    The seconds include compiling, if `large` is compiled for its shapes.
    """
    small()
    before, start = peak(), clock()
    large()
    print(f"{clock() - start:.3f} {(peak() - before) // 2**20}")


def write(op: str, rows, device="cpu"):
    """Save rows and print them; of this CPU, with its chip and the threads."""
    rows = list(rows)
    if device == "cpu":
        columns = {"chip": cpu(), "threads": threads()}
        rows = [{**row, **columns} for row in rows]
    path = save(op, rows, device)
    print(f"{path.name}\n{path.read_text()}")


def cpu() -> str:
    """Name the chip of this machine, as Linux says it."""
    words = pathlib.Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.*)", words)
    return found[1] if found else platform.machine()


def threads() -> int:
    """Count the threads that a product may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())


def save(op: str, rows: list, device: str, folder=RESULTS):
    """Write rows to a CSV named by op, backend, its version and the device."""
    version = importlib.metadata.version(BACKEND).split("+")[0]
    path = folder / f"{op}-{BACKEND}-{version}-{device}.csv"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unfinished.rename(path)
    return path

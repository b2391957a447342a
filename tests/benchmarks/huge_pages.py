"""A training step of the Soft MoE layer with and without huge pages.

Gradients of kernels are arrays so large that the C library fetches them from
the system, and returns them, each time; the system hands out memory page by
page. Where Linux has huge pages on request, glibc from 2.35 on asks for them if
the variable below is set before Python starts. Each row's steps run in fresh
processes, with and without it in turn.

    python -m tests.benchmarks.huge_pages GROUPS TOKENS EXPERTS SLOTS

prints the median seconds of a step.
"""

import os
import pathlib
import statistics
import sys

from tqdm import tqdm

from tests.benchmarks import soft_moe_layers
from tests.benchmarks import timing
from tests.benchmarks.soft_routing import SIZES
from tests.benchmarks.soft_routing import row

VARIABLE, REQUEST = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
SYSTEM = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TURNS = 3


def rows():
    on_request = "[madvise]" in SYSTEM.read_text()
    if not on_request or os.environ.get(VARIABLE):
        raise SystemExit(
            f"{SYSTEM} must say [madvise], and {VARIABLE} must not be set."
        )
    settings = {
        "usual": None,  # as it is
        "huge pages": {**os.environ, VARIABLE: REQUEST},
    }
    for size in tqdm(SIZES, desc=timing.BACKEND):
        seconds = {name: [] for name in settings}
        for _ in range(TURNS):
            for name, env in settings.items():
                *_, printed = timing.words_of(__name__, *size, env=env)
                seconds[name].append(float(printed))
        for columns in timing.against(seconds, "usual"):
            yield row(size, "FB", columns, soft_moe_layers.OP)


def step(size):
    """Median seconds of a step of a layer of this size."""
    layer, arrays = soft_moe_layers.build(size)
    functions = {"step": timing.forward_backward(layer)}
    return statistics.median(timing.paired(functions, arrays, turns=7)["step"])


if __name__ == "__main__":
    print(f"{step(tuple(map(int, sys.argv[1:]))):.5f}")

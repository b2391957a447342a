"""Compile soft routing for TPUs, without one: temporary memory and cycles.

    pip install "jax[tpu]==0.10.2" keras tqdm
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python -m tests.benchmarks.tpu_streaming

Nothing is run. `temporary_mib` is what the program needs beyond its inputs and
outputs, `arrays_of_weights` how many of its results are as large as (tokens x
slots), `conditionals` its branches on values, `mcycles` the compiler's estimate
for all operations, in millions; it has none for kernels, and so for
`streaming`. `/reference` is the ratio to the plain
formulas, `of_ideal` what the matrix units alone would take over the estimate.
"""

import re

from jax.experimental import topologies
from tqdm import tqdm

from keras_moe.ops import selection
from tests.benchmarks import compiled
from tests.benchmarks import timing

# Multiplications and additions in a cycle: 4 units of 128², 2 of 256².
MATRIX_UNITS = {"v5e": 131072, "v6e": 262144}


def rows():
    # What it will be compiled for.
    selection.kind_of = lambda array: "tpu"
    for chip in tqdm(MATRIX_UNITS, desc="TPU"):
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip}:2x2"
        )
        plain = {}
        for mode, name, program in compiled.programs(topology):
            estimate = cycles(program.as_text()) / 1e6
            plain.setdefault(mode, estimate)
            yield {
                **compiled.row(chip, mode, name),
                **compiled.memory(program),
                **columns(estimate, plain[mode], ideal(chip, mode), name),
            }


def ideal(chip, mode):
    """Cycles of the routing's products, three F and nine FB, in millions."""
    products = {"F": 3, "FB": 9}[mode]
    of_one = 2 * compiled.GROUPS * compiled.TOKENS**2 * compiled.FEATURES
    return products * of_one / MATRIX_UNITS[chip] / 1e6


def cycles(text):
    """The compiler's estimates of all operations, added up."""
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))


def columns(estimate, plain, ideal, name):
    """Of a table; kernels have no estimate, hence no ratios."""
    known = name != "streaming"
    return {
        "mcycles": f"{estimate:.2f}" if known else "",
        "/reference": f"{estimate / plain:.3f}" if known else "",
        "of_ideal": f"{ideal / estimate:.3f}" if known else "",
    }


if __name__ == "__main__":
    timing.write("soft_routing_compiled", rows(), device="tpu")

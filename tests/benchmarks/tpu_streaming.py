"""Compile soft routing for TPUs, without one: temporary memory and cycles.

    pip install "jax[tpu]==0.10.2" keras tqdm
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python -m tests.benchmarks.tpu_streaming

Nothing is run. `temporary_mib` is what the program needs beyond its inputs and
outputs, `arrays_of_weights` how many of its results are as large as (tokens x
slots), `mcycles` the compiler's estimate for all operations, in millions,
without branches that are taken beyond the limit of logits only; it has none
for kernels, and so for `streaming`. `/reference` is the ratio to the plain
formulas, `of_ideal` what the matrix units alone would take over the estimate.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from keras_moe import ops as moe_ops
from keras_moe import routing
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from tests.benchmarks import soft_routing
from tests.benchmarks import timing

GROUPS, TOKENS, FEATURES, EXPERTS = 4, 4096, 768, 32  # as many slots as tokens
# Multiplications and additions in a cycle: 4 units of 128², 2 of 256².
MATRIX_UNITS = {"v5e": 131072, "v6e": 262144}


def rows():
    # What it will be compiled for.
    streaming.room.on_tpu = lambda: True
    shared_exp.room.on_cpu = lambda: False
    for chip in tqdm(MATRIX_UNITS, desc="TPU"):
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip}:2x2"
        )
        one = SingleDeviceSharding(topology.devices[0])
        arrays = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=one)
            for shape, dtype in (
                ((GROUPS, TOKENS, FEATURES), jnp.bfloat16),
                ((FEATURES, EXPERTS, TOKENS // EXPERTS), jnp.float32),
                ((), jnp.float32),
            )
        ]
        for mode, goes in (("F", forward), ("FB", gradients)):
            plain = None
            for name in soft_routing.NAMES:
                program = jax.jit(goes(name)).lower(*arrays).compile()
                found = facts(program)
                plain = plain or found["mcycles"]
                yield {
                    "op": "soft routing, compiled",
                    "chip": chip,
                    "mode": mode,
                    "groups": GROUPS,
                    "tokens": TOKENS,
                    "slots": TOKENS,
                    "features": FEATURES,
                    "dtype": "bfloat16",
                    "of": name,
                    **columns(found, plain, ideal(chip, mode), name),
                }


def forward(name):
    """Tokens as in mixed precision: routed in float32, read in bfloat16."""

    def there_and_back(tokens, embeddings, scale):
        exact = tokens.astype(jnp.float32)
        plan = routing.soft_moe(exact, embeddings, scale)
        prepared = moe_ops.prepare(plan, tokens.dtype, name)
        return prepared.combine(prepared.dispatch(tokens))

    return there_and_back


def gradients(name):
    function = forward(name)

    def loss(*arrays):
        return jnp.sum(jnp.square(function(*arrays).astype(jnp.float32)))

    return jax.grad(loss, argnums=(0, 1, 2))


def ideal(chip, mode):
    """Cycles of the routing's products, three F and nine FB, in millions."""
    products = {"F": 3, "FB": 9}[mode]
    operations = products * 2 * GROUPS * TOKENS**2 * FEATURES
    return operations / MATRIX_UNITS[chip] / 1e6


def facts(program):
    text = program.as_text()
    # A bitcast is another view of what is there.
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* (?!bitcast\()", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    temporary = program.memory_analysis().temp_size_in_bytes
    return {
        "temporary_mib": round(temporary / 2**20, 1),
        "arrays_of_weights": sum(size >= TOKENS * TOKENS for size in sizes),
        "mcycles": cycles(text) / 1e6,
    }


def cycles(text):
    """The estimate, without what is computed if a predicate is true.

    `lax.cond` writes its branches in the order false, true.
    """
    parts = re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ )", text)
    named = {re.match(r"(?:ENTRY )?%([\w.\-]+)", p)[1]: p for p in parts[1:]}
    for _, true in re.findall(
        r"branch_computations=\{%([\w.\-]+), %([\w.\-]+)\}", text
    ):
        named.pop(true, None)
    found = re.findall(r'"estimated_cycles":"(\d+)"', "".join(named.values()))
    return sum(map(int, found))


def columns(found, plain, ideal, name):
    """Of a table; kernels have no estimate, hence no ratios."""
    estimate = found.pop("mcycles")
    known = name != "streaming"
    return {
        **found,
        "mcycles": f"{estimate:.2f}" if known else "",
        "/reference": f"{estimate / plain:.3f}" if known else "",
        "of_ideal": f"{ideal / estimate:.3f}" if known else "",
    }


if __name__ == "__main__":
    timing.write("soft_routing_compiled", rows(), device="tpu")

"""Compile soft routing for TPUs, without one: temporary memory and cycles.

    pip install "jax[tpu]==0.10.2" keras tqdm
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python -m tests.benchmarks.tpu_streaming

Nothing is run. `temporary_mib` is what the program needs beyond its inputs and
outputs, `arrays_of_weights` how many of its results are as large as (tokens x
slots), `estimated_cycles` the compiler's sum over operations, in millions,
which leaves out kernels and so says nothing of `streaming`.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from keras_moe.ops import streaming
from tests.benchmarks import soft_routing
from tests.benchmarks import timing

TOKENS, FEATURES = 4096, 384  # and as many slots, of 32 experts


def rows():
    streaming.room.on_tpu = lambda: True  # what it will be compiled for
    for chip in tqdm(("v5e:2x2", "v6e:2x2"), desc="TPU"):
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=chip
        )
        one = SingleDeviceSharding(topology.devices[0])
        arrays = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=one)
            for shape in (
                (1, TOKENS, FEATURES),
                (FEATURES, 32, TOKENS // 32),
                (),
            )
        ]
        for name in soft_routing.NAMES:
            for mode, function in (("F", forward), ("FB", gradients)):
                program = jax.jit(function(name)).lower(*arrays).compile()
                yield {
                    "chip": chip.split(":")[0],
                    "mode": mode,
                    "of": name,
                    "tokens": TOKENS,
                    "slots": TOKENS,
                    "features": FEATURES,
                    **facts(program),
                }


def forward(name):
    return soft_routing.make(name)


def gradients(name):
    function = soft_routing.make(name)

    def loss(*arrays):
        return jnp.sum(jnp.square(function(*arrays)))

    return jax.grad(loss, argnums=(0, 1, 2))


def facts(program):
    text = program.as_text()
    shapes = re.findall(r"= \w+\[([\d,]+)\]", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    cycles = re.findall(r'"estimated_cycles":"(\d+)"', text)
    temporary = program.memory_analysis().temp_size_in_bytes
    return {
        "temporary_mib": round(temporary / 2**20, 1),
        "arrays_of_weights": sum(size >= TOKENS * TOKENS for size in sizes),
        "estimated_cycles": f"{sum(map(int, cycles)) / 1e6:.2f}",
    }


if __name__ == "__main__":
    timing.write("soft_routing_compiled", rows(), device="tpu")

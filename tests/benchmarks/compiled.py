"""Soft routing compiled ahead of time for a device that is not there.

What the tables for TPUs and GPUs share: the routing as a function of arrays on
the device, and what the compiled program tells of its memory.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests.benchmarks import soft_routing

GROUPS, TOKENS, FEATURES, EXPERTS = 4, 4096, 768, 32  # as many slots as tokens


def programs(topology):
    """Mode, name and compiled program, for the first device of a topology."""
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
        for name in soft_routing.NAMES:
            if name == "cpu":
                continue  # which is for CPUs
            program = jax.jit(goes(name)).lower(*arrays).compile()
            yield mode, name, program


def forward(name):
    """Tokens as in mixed precision: routed in float32, read in bfloat16."""

    def there_and_back(tokens, embeddings, scale):
        exact = tokens.astype(jnp.float32)
        limit = soft_routing.MAX_SCALE.get(name)
        plan = routing.soft_moe(exact, embeddings, scale, max_scale=limit)
        prepared = moe_ops.make_dispatcher(plan, tokens.dtype, name)
        return prepared.combine(prepared.dispatch(tokens))

    return there_and_back


def gradients(name):
    function = forward(name)

    def loss(*arrays):
        return jnp.sum(jnp.square(function(*arrays).astype(jnp.float32)))

    return jax.grad(loss, argnums=(0, 1, 2))


def row(chip, mode, name):
    """The columns that say what was compiled."""
    return {
        "op": "soft routing, compiled",
        "chip": chip,
        "mode": mode,
        "groups": GROUPS,
        "tokens": TOKENS,
        "slots": TOKENS,
        "features": FEATURES,
        "dtype": "bfloat16",
        "of": name,
    }


def memory(program):
    """Columns: MiB beyond inputs and outputs, and arrays (tokens x slots)."""
    # A bitcast is another view of what is there.
    shapes = re.findall(
        r"= \w+\[([\d,]+)\]\S* (?!bitcast\()", program.as_text()
    )
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    temporary = program.memory_analysis().temp_size_in_bytes
    return {
        "temporary_mib": round(temporary / 2**20, 1),
        "arrays_of_weights": sum(size >= TOKENS * TOKENS for size in sizes),
        "conditionals": program.as_text().count(" conditional("),
    }

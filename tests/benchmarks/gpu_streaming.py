"""Compile soft routing for GPUs with JAX, without one: memory.

    pip install jax==0.10.2 keras tqdm
    pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python -m tests.benchmarks.gpu_streaming

Nothing is run, and kernels of products are not tuned, as that needs the GPU.
`temporary_mib` is what the program needs beyond its inputs and outputs,
`arrays_of_weights` how many of its results are as large as (tokens x slots),
`conditionals` its branches on values.
The compiler tells no cycles.
"""

import os

# Tuning would run kernels.
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"

from jax.experimental import topologies
from tqdm import tqdm

from keras_moe.ops import selection
from tests.benchmarks import compiled
from tests.benchmarks import timing

# What the compiler asks of a GPU: the hardware's limits, as the compiler's own
# descriptions give them (openxla/xla, xla/backends/gpu/target_config/specs).
SHARED = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 49152,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
}
CHIPS = {
    "A100 (sm_80)": {
        "major": 8,
        "core_count": 108,
        "fpus_per_core": 64,
        "shared_memory_per_core": 167936,
        "shared_memory_per_block_optin": 166912,
        "l2_cache_size": 41943040,
        "clock_rate_ghz": 1.41,
        "memory_bandwidth": 2039000000000,
        "device_memory_size": 84974239744,
    },
    "H100 (sm_90)": {
        "major": 9,
        "core_count": 132,
        "fpus_per_core": 128,
        "shared_memory_per_core": 233472,
        "shared_memory_per_block_optin": 232448,
        "l2_cache_size": 52428800,
        "clock_rate_ghz": 1.98,
        "memory_bandwidth": 3352320000000,
        "device_memory_size": 84929347584,
    },
}


def rows():
    selection.kind_of = lambda array: "gpu"  # what it will be compiled for
    for chip, limits in tqdm(CHIPS.items(), desc="GPU"):
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name=chip,
            topology="1x1x1",
            target_config=description(chip, **limits),
        )
        for mode, name, program in compiled.programs(topology):
            yield {
                **compiled.row(chip, mode, name),
                **compiled.memory(program),
            }


def description(chip, major, **limits):
    """The compiler's text of a GPU."""
    told = "\n".join(f"  {k}: {v}" for k, v in {**SHARED, **limits}.items())
    return f"""
gpu_device_info {{
{told}
  cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 8 }}
dnn_version_info {{ major: 9 minor: 7 }}
device_description_str: "{chip}"
"""


if __name__ == "__main__":
    timing.write("soft_routing_compiled", rows(), device="gpu")

"""Compile training steps with experts spread over TPUs.

    pip install "jax[tpu]==0.10.2" keras keras-hub tensorflow-cpu
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python -m tests.benchmarks.tpu_experts

Nothing is run, and no weight is made. A row is a step with AdamW in
`mixed_bfloat16` on a mesh: how many exchanges between devices of each kind the
program has and how many MiB a device receives in them, and what memory it takes
on each device. `largest_gather_mib` would be that of all experts' weights, had
the compiler preferred to bring these together.

The first table is of the Soft MoE paper's S/16, 906 million parameters in 128
experts. The second is of hard routers in four of its blocks, two of them with
experts, as the compiler takes long for their sorting.
"""

import concurrent.futures
import itertools
import math
import sys

import jax
import keras
import numpy as np
from jax.experimental import topologies
from tqdm import tqdm

from keras_moe import distribution
from keras_moe import models
from keras_moe.ops import selection
from tests import exchanges
from tests.benchmarks import timing

ARCHITECTURE, IMAGES_PER_DEVICE, CLASSES = "soft_moe_s16", 16, 1000
EXPERTS = 128
ROUTERS = {  # `router` and `router_options` of the backbone
    "soft": ("soft", {"slots_per_expert": 1}),
    "expert_choice": ("expert_choice", {"capacity_factor": 1.0}),
    "token_choice": ("token_choice", {"top_k": 2, "capacity_factor": 1.0}),
    "dropless": ("token_choice", {"top_k": 2, "capacity_factor": None}),
}
TOPOLOGY = "v5e:2x4"
MESHES = ((1, 8), (2, 4))  # data x expert
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "u8": 1}


def whole():
    """S/16 with its own router."""
    for row in rows(("soft",)):
        row.pop("router")
        yield row


def cut():
    """Two blocks with a dense MLP and two with experts, of hard routers."""
    hard = ("dropless", "token_choice", "expert_choice")
    return rows(hard, num_layers=4, moe_layers=(2, 3))


def rows(routers, **sizes):
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGY
    )
    # JAX itself has a CPU here; implementations are to be those of TPUs.
    selection.kind_of = lambda array: "tpu"
    for router, shape in tqdm([*itertools.product(routers, MESHES)], "TPU"):
        # A thread of its own: what is not initialised goes with it.
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
            devices = np.array(topology.devices).reshape(shape)
            program = thread.submit(compiled, router, devices, sizes).result()
        yield {
            "chips": TOPOLOGY,
            "data_x_expert": "x".join(map(str, shape)),
            "model": ARCHITECTURE,
            "router": router,
            "images_per_device": IMAGES_PER_DEVICE,
            **memory(program),
            **traffic(program.as_text()),
        }


def compiled(router, devices, sizes):
    """The training step on a mesh of devices that need not be there."""
    mesh = jax.sharding.Mesh(devices, (distribution.DATA, distribution.EXPERT))
    spread = distribution.expert_parallel(
        devices.shape[1], devices=[str(d) for d in devices.flat]
    )
    spread.device_mesh._backend_mesh = mesh
    keras.config.set_dtype_policy("mixed_bfloat16")
    optimizer = keras.optimizers.AdamW(1e-3)  # counts its steps from now on
    with keras.StatelessScope(initialize_variables=False), spread.scope():
        model = make(router, optimizer, sizes)
        state = [
            [absent(variable, spread, mesh) for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        ]
        count = IMAGES_PER_DEVICE * devices.size
        batch = [
            jax.ShapeDtypeStruct(
                shape,
                dtype,
                sharding=spread.get_data_layout(shape).backend_layout,
            )
            for shape, dtype in (
                ((count, 224, 224, 3), "float32"),
                ((count,), "int32"),
            )
        ]
        step = jax.jit(model.train_step, donate_argnums=0)
        return step.lower(tuple(state), tuple(batch)).compile()


def make(router, optimizer, sizes):
    name, options = ROUTERS[router]
    backbone = models.MoEViTBackbone.from_architecture(
        ARCHITECTURE,
        router=name,
        router_options={"num_experts": EXPERTS, **options},
        **sizes,
    )
    task = models.MoEViTImageClassifier(backbone, CLASSES, compile=False)
    model = keras.Model(task.input, task.output)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for variable in model.variables:
        variable._initialize_layout()  # as with a value; moments follow it
    optimizer.build(model.trainable_variables)
    return model


def absent(variable, spread, mesh):
    """The place of a variable's value: shape, dtype, devices."""
    layout = spread.get_variable_layout(variable)
    sharding = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        if layout is None
        else layout.backend_layout
    )
    return jax.ShapeDtypeStruct(
        tuple(variable.shape), variable.dtype, sharding=sharding
    )


def memory(program):
    """MiB on each device: state and batch, and what the step adds."""
    found = program.memory_analysis()
    return {
        "arguments_mib": found.argument_size_in_bytes // 2**20,
        "temporary_mib": found.temp_size_in_bytes // 2**20,
    }


def traffic(text):
    """How many exchanges of each kind, and the MiB that they bring."""
    sizes = {kind: [] for kind in exchanges.KINDS}
    for kind, arrays in exchanges.found(text):
        sizes[kind].append(mib(arrays))
    columns = {}
    for kind, brought in sizes.items():
        columns[kind] = len(brought)
        columns[f"{kind}_mib"] = f"{sum(brought):.1f}"
        if kind == "all-gather":
            columns["largest_gather_mib"] = f"{max(brought, default=0):.1f}"
    return columns


def mib(arrays):
    """Of all these arrays, (dtype, shape) each."""
    return sum(BYTES[d] * math.prod(shape) for d, shape in arrays) / 2**20


TABLES = {"expert_parallel_compiled": whole, "expert_parallel_routers": cut}


def main(names):
    for name in names or TABLES:
        made = []
        for row in TABLES[name]():
            made.append(row)  # kept at once, as a row takes minutes
            timing.save(name, made, "tpu")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Train in two processes of JAX, and compare with one process.

Run by `test_several_processes.py` in a process of its own, which is copied
(forked) before JAX starts: the processes of a group have four virtual devices
each, the other one has eight. Prints one line of JSON.
"""

import os

import jax
import keras

from keras_moe import distribution
from tests.layers import four_routers
from tests.layers.forks import run
from tests.layers.forks import said_by
from tests.layers.forks import save


def train(model, batch):
    """The losses of some steps of `fit`."""
    history = model.fit(
        *batch,
        batch_size=len(batch[0]),
        epochs=four_routers.STEPS,
        shuffle=False,
        verbose=0,
    )
    return history.history


def alone(folder):
    """Eight devices of one process."""
    start_devices(8)
    with distribution.expert_parallel().scope():
        model = four_routers.build()
        losses = train(model, (four_routers.X, four_routers.Y))
        model.save_weights(f"{folder}/alone.weights.h5")
    facts = {"losses": losses, "state": four_routers.state(model)}
    save(facts, folder)


def member(rank, address, folder):
    """Four devices of one of two processes."""
    start_devices(8 // four_routers.PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(address, four_routers.PROCESSES, rank)
    spread = distribution.expert_parallel(auto_shard_dataset=False)
    with spread.scope():
        model = four_routers.build()
        facts = {"devices": [jax.device_count(), jax.local_device_count()]}
        facts["losses"] = train(model, four_routers.part(rank))
        written, alone = (
            f"{folder}/{name}.weights.h5" for name in ("processes", "alone")
        )
        moe = next(x for x in model.layers if x.name == "soft_moe")
        facts["refused"] = four_routers.raised_by(
            moe.experts.up.save_own_variables, {}
        )
        trained = [v.value for v in model.variables]
        with distribution.whole_experts(model):
            facts["state"] = four_routers.state(model)
            if rank == 0:
                model.save_weights(written)
        facts["kept"] = all(
            v.value is value for v, value in zip(model.variables, trained)
        )
        facts["bytes"] = {
            v.path: [v.value.nbytes, bytes_here(v.value)]
            for v in (*model.weights, *model.optimizer.variables)
        }
        other = four_routers.build(seed=1)
        with distribution.whole_experts(other):
            other.load_weights(alone)
        with distribution.whole_experts(other):
            facts["read"] = four_routers.state(other)
        facts["predict"] = four_routers.raised_by(
            model.predict, four_routers.part(rank)[0], verbose=0
        )
    save(facts, folder, rank)


def bytes_here(value):
    return sum(shard.data.nbytes for shard in value.addressable_shards)


def read(folder):
    """One device reads what two processes wrote."""
    start_devices(1)
    model = four_routers.build(seed=1)
    model.load_weights(f"{folder}/processes.weights.h5")
    save({"read": four_routers.state(model)}, folder, "read")


def start_devices(count):
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0"
    )


def program(folder):
    address = four_routers.free_addresses()[0]
    run(folder, [alone])
    ranks = range(four_routers.PROCESSES)
    run(folder, *([member, rank, address] for rank in ranks))
    run(folder, [read])


if __name__ == "__main__":
    print(said_by(program))

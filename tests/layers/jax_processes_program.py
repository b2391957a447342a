"""Train in two processes of JAX, and compare with one process.

Run by `test_several_processes.py` in a process of its own, which is copied
(forked) before JAX starts: the processes of a group have four virtual devices
each, the other one has one. Prints one line of JSON.
"""

import multiprocessing
import os

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

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


def alone(meeting, folder):
    """One device of one process, which reads what two processes wrote."""
    start_devices(1, folder)
    model = four_routers.build()
    facts = {"losses": train(model, (four_routers.X, four_routers.Y))}
    facts["state"] = four_routers.state(model)
    model.save_weights(f"{folder}/alone.weights.h5")
    meeting.wait()
    other = four_routers.build(seed=1)
    other.load_weights(f"{folder}/processes.weights.h5")
    facts["read"] = four_routers.state(other)
    save(facts, folder)


def member(rank, address, meeting, folder):
    """Four devices of one of two processes."""
    start_devices(8 // four_routers.PROCESSES, folder)
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
        facts["failed"] = four_routers.raised_by(fail_within, model)
        facts["kept"] &= all(
            v.value is value for v, value in zip(model.variables, trained)
        )
        meeting.wait()
        other = four_routers.build(seed=1)
        with distribution.whole_experts(other):
            other.load_weights(alone)
        with distribution.whole_experts(other):
            facts["read"] = four_routers.state(other)
        small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        facts["predict"] = four_routers.raised_by(
            small.predict, np.ones((8, 2)), verbose=0
        )
    save(facts, folder, rank)


def fail_within(model):
    """Enter a block whose second exchange fails, in each process."""
    gather, calls = multihost_utils.process_allgather, []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("the second exchange")
        return gather(*arguments, **options)

    multihost_utils.process_allgather = failing
    try:
        with distribution.whole_experts(model):
            pass
    finally:
        multihost_utils.process_allgather = gather


def bytes_here(value):
    return sum(shard.data.nbytes for shard in value.addressable_shards)


def start_devices(count, folder):
    """Set up this process's devices, and programs compiled by the others."""
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0"
    )
    for name, value in (
        ("jax_compilation_cache_dir", f"{folder}/programs"),
        ("jax_persistent_cache_min_compile_time_secs", 0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)


def program(folder):
    address = four_routers.free_addresses()[0]
    ranks = range(four_routers.PROCESSES)
    # All read after all have written.
    meeting = multiprocessing.get_context("fork").Barrier(1 + len(ranks))
    members = ([member, rank, address, meeting] for rank in ranks)
    run(folder, [alone, meeting], *members)


if __name__ == "__main__":
    print(said_by(program))

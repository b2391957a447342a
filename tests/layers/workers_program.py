"""Train with two workers of TensorFlow, and compare with one process.

Run by `test_several_processes.py` in a process of its own, which is copied
(forked) before TensorFlow starts. Prints one line of JSON.
"""

import json
import os

import tensorflow as tf

from tests.layers import four_routers
from tests.layers.forks import run
from tests.layers.forks import said_by
from tests.layers.forks import save


def train(model, strategy, batch):
    """The losses of some steps: Keras' step, in a loop of one's own."""
    batch = tf.nest.map_structure(tf.constant, batch)

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    losses = {}
    for _ in range(four_routers.STEPS):
        model.reset_metrics()
        for name, loss in step(batch).items():
            losses.setdefault(name, []).append(float(loss))
    return losses


def build(seed=0):
    return four_routers.build(seed, jit_compile=False)


def alone(folder):
    """One process with the whole batch."""
    model = build()
    batch = four_routers.X, four_routers.Y
    losses = train(model, tf.distribute.get_strategy(), batch)
    model.save_weights(f"{folder}/alone.weights.h5")
    save({"losses": losses, "state": four_routers.state(model)}, folder)


def worker(rank, addresses, folder):
    """One of two workers, with a part of the batch."""
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": rank},
        }
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = build()
    facts = {"replicas": strategy.num_replicas_in_sync}
    own = four_routers.part(rank)
    # Before it traces a step: Keras makes one value of a batch's parts.
    facts["fit"] = four_routers.raised_by(model.fit, *own, verbose=0)
    facts["losses"] = train(model, strategy, own)
    facts["state"] = four_routers.state(model)
    if rank == 0:
        model.save_weights(f"{folder}/workers.weights.h5")
    model.load_weights(f"{folder}/alone.weights.h5")
    facts["read"] = four_routers.state(model)
    save(facts, folder, rank)


def read(folder):
    """One process reads what a worker wrote."""
    model = build(seed=1)
    model.load_weights(f"{folder}/workers.weights.h5")
    save({"read": four_routers.state(model)}, folder, "read")


def program(folder):
    addresses = four_routers.free_addresses()
    run(folder, [alone])
    ranks = range(four_routers.PROCESSES)
    run(folder, *([worker, rank, addresses] for rank in ranks))
    run(folder, [read])


if __name__ == "__main__":
    print(said_by(program))

"""Spread experts over processes of PyTorch, and compare with one process.

Run by `tests/layers/test_processes.py` in a process of its own, which is
copied (forked) for each process of a group. Prints one line of JSON.
"""

import json
import multiprocessing
import os
import sys
import tempfile

import keras
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_moe
from keras_moe import diagnostics
from keras_moe import distribution

EXPERTS, TOKENS, FEATURES, BATCH = 4, 6, 8, 4
OPTIONS = {"intermediate_dim": 16, "kernel_initializer": "he_normal"}
LAYERS = {
    "soft": lambda: keras_moe.layers.SoftMoE(EXPERTS, 2, **OPTIONS),
    "expert_choice": lambda: keras_moe.layers.ExpertChoiceMoE(
        EXPERTS, 2, **OPTIONS
    ),
    "capacity": lambda: keras_moe.layers.TokenChoiceMoE(
        EXPERTS, 2, gated=True, kernel_regularizer="l2", **OPTIONS
    ),
    "dropless": lambda: keras_moe.layers.TokenChoiceMoE(
        EXPERTS, 2, capacity_factor=None, **OPTIONS
    ),
}
# Layers that move variables by the batch.
MOVING = {
    "thresholds": lambda: keras_moe.layers.ExpertChoiceMoE(
        EXPERTS, 2, selection="threshold", threshold_momentum=0.5, **OPTIONS
    ),
    "balance": lambda: keras_moe.layers.TokenChoiceMoE(
        EXPERTS, 2, balance_bias_rate=0.1, **OPTIONS
    ),
    "depths": lambda: keras_moe.layers.MixtureOfDepths(
        MOVING["balance"](), 0.5, residual=False, inference="threshold"
    ),
}
STEPS = 3


def build(make):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((TOKENS, FEATURES))
    outputs = keras.layers.Dense(3)(tokens + make()(tokens))
    return keras.Model(tokens, outputs)


def train(model, called, inputs):
    """Losses of some steps of plain gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = called(inputs, training=True).square().mean()
        (loss + sum(model.losses)).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def weights(model):
    return [w.numpy().tolist() for w in model.weights]


def moved(model, losses):
    """Losses of training, and what its calls have moved."""
    values = [w.numpy().tolist() for w in model.non_trainable_weights]
    return {"losses": torch.as_tensor(losses).tolist(), "moved": values}


def process(rank, processes, folder, inputs):
    """One process of a group; the first writes what it found."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
    )
    own = torch.tensor(np.split(inputs, processes)[rank])
    facts = {}
    for name, make in LAYERS.items():
        model = build(make)
        distribution.spread_experts(model)
        shape = model.layers[1].experts.up.kernel.value.shape
        called = DistributedDataParallel(model)
        losses = torch.tensor(train(model, called, own))
        distributed.all_reduce(losses)
        path = f"{folder}/{name}.weights.h5"
        with distribution.whole_experts(model):
            facts[name] = {
                "losses": (losses / processes).tolist(),
                "weights": weights(model),
                "kernel": list(shape),
            }
            if rank == 0:
                model.save_weights(path)
            distributed.barrier()
        again = build(make)
        distribution.spread_experts(again)
        with distribution.whole_experts(again):
            again.load_weights(path)
        with diagnostics.capture(slots=True) as plans:
            difference = (again(own) - model(own)).abs().max()
        facts[name]["read_again"] = float(difference.detach())
        facts[name]["hidden"] = [s.hidden for s in plans.slots.values()]
    for name, make in MOVING.items():
        model = build(make)
        if processes == 2:
            distribution.synchronize_routers(model)
        else:
            distribution.spread_experts(model)
        losses = torch.tensor(train(model, DistributedDataParallel(model), own))
        distributed.all_reduce(losses)
        facts[name] = moved(model, losses / processes)
    if rank == 0:
        with open(f"{folder}/facts.json", "w") as file:
            json.dump(facts, file)
    distributed.destroy_process_group()


def main():
    inputs = np.random.default_rng(0).normal(size=(BATCH, TOKENS, FEATURES))
    inputs = inputs.astype("float32")
    facts = {"1": {}}
    for name, make in LAYERS.items():
        model = build(make)
        losses = train(model, model, torch.tensor(inputs))
        facts["1"][name] = {"losses": losses, "weights": weights(model)}
    for name, make in MOVING.items():
        model = build(make)
        losses = train(model, model, torch.tensor(inputs))
        facts["1"][name] = moved(model, losses)
    for processes in (2, 4):
        facts[str(processes)] = found_by(process, processes, inputs)
    print(json.dumps(facts))


def found_by(process, processes, inputs):
    """What the first of some processes has written to `facts.json`.

    Args:
        process: of (rank, processes, folder, inputs).
        processes: how many.
        inputs: for all.
    """
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        members = [
            fork.Process(target=process, args=(rank, processes, folder, inputs))
            for rank in range(processes)
        ]
        for member in members:
            member.start()
        for member in members:
            member.join()
        if any(member.exitcode for member in members):
            sys.exit("a process failed")
        with open(os.path.join(folder, "facts.json")) as file:
            return json.load(file)


if __name__ == "__main__":
    main()

"""Spread experts over processes of PyTorch, and compare with one process.

Run by `tests/layers/test_processes.py` in a process of its own, which is
copied (forked) for each process of a group. Prints one line of JSON.
"""

import json

import keras
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_moe
from keras_moe import diagnostics
from keras_moe import distribution
from tests.layers.groups import found_by

EXPERTS, TOKENS, FEATURES, BATCH = 4, 6, 8, 4
INPUTS = np.random.default_rng(0).normal(size=(BATCH, TOKENS, FEATURES))
INPUTS = INPUTS.astype("float32")
INPUTS[..., 0] = 1.0
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
CROWDED = 2  # the expert that all tokens choose where one is to


class Crowd(keras.initializers.Initializer):
    """The router's kernel with which all tokens choose one expert."""

    def __call__(self, shape, dtype=None):
        kernel = np.zeros(shape)
        kernel[0, CROWDED] = 20.0
        return keras.ops.convert_to_tensor(kernel, dtype)


# Dropless layers whose processes have parts of very different sizes: by case,
# options, the sequences of each of two and of four processes, the masked ones.
UNEVEN = {
    "one_expert": (
        {"top_k": 1, "router_initializer": Crowd()},
        {2: (2, 2), 4: (1, 1, 1, 1)},
        [],
    ),
    "no_tokens": ({"top_k": 2}, {2: (4, 0), 4: (0, 1, 3, 0)}, []),
    "masked": ({"top_k": 2, "gated": True}, {2: (2, 2), 4: (1, 2, 1, 0)}, [0]),
}


def uneven(name, processes=1, rank=0):
    """Outputs and gradients of a process's part, and its experts' rows."""
    options, sizes, masked = UNEVEN[name]
    keras.utils.set_random_seed(0)
    rows = []

    def activation(hidden):
        rows.append(len(hidden))
        return keras.ops.tanh(hidden)

    layer = keras_moe.layers.TokenChoiceMoE(
        EXPERTS,
        capacity_factor=None,
        activation=activation,
        **OPTIONS,
        **options,
    )
    layer.build((None, TOKENS, FEATURES))
    if processes > 1:
        distribution.spread_experts(layer)
    ends = np.cumsum((0, *sizes.get(processes, (BATCH,))))
    part = slice(ends[rank], ends[rank + 1])
    mask = np.ones((BATCH, TOKENS), bool)
    mask[masked] = False
    mask[:, 1] = False
    inputs = torch.tensor(INPUTS[part], requires_grad=True)
    outputs = layer(inputs, mask=torch.tensor(mask[part]))
    # Gradients of experts are those of the mean of the processes' losses.
    (processes * outputs.square().sum()).backward()
    router = layer.router_kernel.value.grad
    if processes > 1:  # as DistributedDataParallel does
        distributed.all_reduce(router)
    arrays = {
        "outputs": outputs.detach(),
        "inputs": inputs.grad / processes,
        "router": router / processes,
        "rows": torch.tensor(rows),
    }
    for weight in layer.experts.trainable_weights:
        arrays[weight.path.split("/", 1)[1]] = weight.value.grad
    return {key: array.tolist() for key, array in arrays.items()}


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


def process(rank, processes, folder):
    """What one process of a group finds."""
    own = torch.tensor(np.split(INPUTS, processes)[rank])
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
    for name in UNEVEN:
        facts[name] = [None] * processes
        distributed.all_gather_object(
            facts[name], uneven(name, processes, rank)
        )
    return facts


def main():
    facts = {"1": {name: [uneven(name)] for name in UNEVEN}}
    for name, make in LAYERS.items():
        model = build(make)
        losses = train(model, model, torch.tensor(INPUTS))
        facts["1"][name] = {"losses": losses, "weights": weights(model)}
    for name, make in MOVING.items():
        model = build(make)
        losses = train(model, model, torch.tensor(INPUTS))
        facts["1"][name] = moved(model, losses)
    for processes in (2, 4):
        facts[str(processes)] = found_by(process, processes)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

"""A model with an output, and a loss, of each of four routers.

For the programs that train it in several processes: one model compiles in less
time than four.
"""

import functools
import socket

import keras
import numpy as np

from keras_moe import layers
from keras_moe.initializers import PerExpert

EXPERTS, TOKENS, FEATURES, BATCH, STEPS = 8, 4, 8, 16, 3
PROCESSES = 2
LAYERS = {
    "soft": functools.partial(layers.SoftMoE, EXPERTS, 1),
    "expert_choice": functools.partial(layers.ExpertChoiceMoE, EXPERTS, 2),
    "capacity": functools.partial(layers.TokenChoiceMoE, EXPERTS, 2),
    "dropless": functools.partial(
        layers.TokenChoiceMoE, EXPERTS, 2, capacity_factor=None
    ),
}
X = np.random.default_rng(0).normal(size=(BATCH, TOKENS, FEATURES))
X = X.astype("float32")
Y = dict.fromkeys(LAYERS, np.arange(BATCH) % 3)


class Drawn(PerExpert):
    """Normal numbers of numpy: random ones of JAX take long to compile."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def __call__(self, shape, dtype=None):
        rng = np.random.default_rng([self.seed, *shape])
        return keras.ops.convert_to_tensor(0.4 * rng.normal(size=shape), dtype)

    def get_config(self):
        return {"seed": self.seed}


def build(seed=0, **options):
    drawn = Drawn(seed)
    tokens = keras.Input((TOKENS, FEATURES))
    outputs = {}
    for name, make in LAYERS.items():
        layer = make(
            intermediate_dim=16,
            kernel_initializer=drawn,
            router_initializer=drawn,
        )
        branch = keras.layers.Flatten()(tokens + layer(tokens))
        outputs[name] = keras.layers.Dense(
            3, kernel_initializer=drawn, name=name
        )(branch)
    model = keras.Model(tokens, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        dict.fromkeys(outputs, loss),
        **options,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def part(rank):
    """The part of the batch that a process has."""
    size = BATCH // PROCESSES
    rows = slice(rank * size, (rank + 1) * size)
    return X[rows], {name: y[rows] for name, y in Y.items()}


def state(model):
    """All that a file of weights holds, momenta of the optimizer too."""
    variables = (*model.weights, *model.optimizer.variables)
    return [v.numpy().tolist() for v in variables]


def raised_by(function, *arguments, **options):
    """The error of a call, in one line."""
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def free_addresses():
    """One on this machine for each process."""
    sockets = [socket.socket() for _ in range(PROCESSES)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = ["{}:{}".format(*one.getsockname()) for one in sockets]
    for one in sockets:
        one.close()
    return addresses

"""Train a value network with a dense head, and one with Soft MoE instead.

    KERAS_BACKEND=jax python guides/value_network.py

Two agents play MinAtar's Space Invaders by deep Q-learning. Their networks
have the same convolutions and about the same number of parameters. One has a
dense layer behind the convolutions; the other has Soft MoE in its place, whose
tokens are the pixels of the last feature map, as in arXiv 2402.08609. MinAtar
is a package of its own: `pip install minatar`. With `--record` the script
writes `guides/value_network.json`, which the site's page on value networks
shows.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras  # noqa: E402  (the backend is chosen above)
import minatar  # noqa: E402
import numpy as np  # noqa: E402
from keras import ops  # noqa: E402
from tqdm import tqdm  # noqa: E402

from keras_moe import commands  # noqa: E402
from keras_moe import layers  # noqa: E402

RECORD = pathlib.Path(__file__).with_suffix(".json")
GAME = "space_invaders"
HIDDEN, EXPERTS = 128, 8
HEADS = ("dense", "soft")
PARTS = 8  # of a run, whose mean returns are the curve
GAMES = 16  # played side by side
BATCH, UPDATES = 32, 4  # of each step of all games
DISCOUNT, RATE = 0.99, 5e-4
MEMORY = 20_000  # transitions
COPY = 50  # steps of all games after which the target network is copied


def network(head, state_shape, actions):
    """A value network: from states (batch, 10, 10, channels) to values."""
    states = keras.Input(state_shape)
    pixels = keras.layers.Conv2D(16, 3, activation="relu")(states)
    pixels = keras.layers.Conv2D(32, 2, strides=2, activation="relu")(pixels)
    if head == "soft":  # (batch, 4, 4, 32): 16 tokens, two slots an expert
        pixels = layers.SoftMoE(
            EXPERTS,
            capacity_factor=1.0,
            intermediate_dim=HIDDEN,
            activation="relu",
            normalize=False,
        )(pixels)
    features = keras.layers.Flatten()(pixels)
    if head == "dense":
        features = keras.layers.Dense(HIDDEN, activation="relu")(features)
    return keras.Model(states, keras.layers.Dense(actions)(features))


def loss(chosen, values):
    """Huber loss of the values of the chosen actions.

    Args:
        chosen: (batch, 2), an action and the value that it should have.
        values: (batch, actions).
    """
    index = ops.cast(chosen[:, :1], "int32")
    value = ops.take_along_axis(values, index, axis=1)[:, 0]
    return keras.losses.huber(chosen[:, 1:], value[:, None])


class Memory:
    """The last transitions, each a state, an action and what came of it."""

    def __init__(self, state_shape):
        self.states = np.zeros((MEMORY, *state_shape), "bool")
        self.later = np.zeros_like(self.states)
        self.actions = np.zeros(MEMORY, "int32")
        self.rewards = np.zeros(MEMORY, "float32")
        self.ends = np.zeros(MEMORY, "float32")
        self.count = 0

    def add(self, state, action, reward, end, later):
        row = self.count % MEMORY
        self.states[row], self.actions[row] = state, action
        self.rewards[row], self.ends[row] = reward, end
        self.later[row] = later
        self.count += 1

    def draw(self, rng, target):
        """States, and for `loss` the actions with their targets."""
        rows = rng.integers(0, min(self.count, MEMORY), BATCH)
        later = target.predict_on_batch(self.later[rows].astype("float32"))
        value = self.rewards[rows]
        value = value + DISCOUNT * (1 - self.ends[rows]) * later.max(axis=1)
        chosen = np.stack([self.actions[rows], value], axis=1)
        return self.states[rows].astype("float32"), chosen.astype("float32")


def play(head, steps, seed):
    """Train one agent.

    Returns:
        The mean return of the episodes that ended in each part of the steps,
        parameters, and seconds of CPU time.
    """
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    games = [minatar.Environment(GAME) for _ in range(GAMES)]
    for number, game in enumerate(games):
        game.seed(GAMES * seed + number)
        game.reset()
    actions, shape = games[0].minimal_action_set(), games[0].state_shape()
    model, target = (network(head, shape, len(actions)) for _ in range(2))
    model.compile(keras.optimizers.Adam(RATE), loss)
    target.set_weights(model.get_weights())
    memory, returns = Memory(shape), np.zeros(GAMES)
    ended = [[] for _ in range(PARTS)]
    start, rounds = time.process_time(), steps // GAMES
    for turn in tqdm(range(rounds), desc=f"{head}, seed {seed}"):
        states = np.stack([game.state() for game in games])
        values = model.predict_on_batch(states.astype("float32"))
        chosen = values.argmax(axis=1)
        # From random actions down to one in twenty, in a quarter of the run.
        chance = max(0.05, 1 - 0.95 * turn / (rounds / 4))
        random = rng.integers(0, len(actions), GAMES)
        chosen = np.where(rng.random(GAMES) < chance, random, chosen)
        for number, game in enumerate(games):
            reward, end = game.act(actions[chosen[number]])
            memory.add(
                states[number], chosen[number], reward, end, game.state()
            )
            returns[number] += reward
            if end:
                ended[PARTS * turn // rounds].append(returns[number])
                returns[number] = 0
                game.reset()
        if memory.count >= 10 * BATCH:
            for _ in range(UPDATES):
                model.train_on_batch(*memory.draw(rng, target))
        if turn % COPY == 0:
            target.set_weights(model.get_weights())
    seconds = time.process_time() - start
    curve = [float(np.mean(part)) if part else None for part in ended]
    shown = " ".join("–" if r is None else f"{r:.1f}" for r in curve)
    print(f"{head:<6} seed {seed}: {shown}, {seconds:.0f} s")
    return curve, model.count_params(), seconds


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps",
        type=commands.positive,
        default=16_000,
        metavar="N",
        help="Play this many steps with each agent (default: %(default)s).",
    )
    parser.add_argument(
        "--seeds",
        type=commands.positive,
        default=3,
        metavar="N",
        help="Train this many agents of each kind (default: %(default)s).",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"Write the returns to {RECORD.name} beside this script.",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    arguments = parse(arguments)
    print(f"Mean return of an episode, in each of {PARTS} parts of the run")
    found = {head: {"returns": [], "seconds": []} for head in HEADS}
    for seed in range(arguments.seeds):
        for head in HEADS:
            curve, parameters, seconds = play(head, arguments.steps, seed)
            found[head]["parameters"] = parameters
            found[head]["returns"].append(curve)
            found[head]["seconds"].append(round(seconds, 1))
    if arguments.record:
        write_record(arguments.steps, found)
    return found


def write_record(steps, found):
    """Write the returns of all agents, whole or not at all."""
    record = {
        "backend": keras.backend.backend(),
        "game": GAME,
        "steps": steps,
        "heads": found,
    }
    part = RECORD.with_name(f".{RECORD.name}.part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(RECORD)


if __name__ == "__main__":
    main()

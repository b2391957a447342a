"""Golden arrays: what the reference codes gave, and how it is compared.

`tests/golden/<case>.npz` holds what a published code was given and what it
gave; `manifest.json` says which code, with what hyperparameters, and how far
its float32 results are from its own float64 results.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_moe import routing
from tests import support

FOLDER = pathlib.Path(__file__).parent.parent / "golden"

# What a reference code was given; all else in a file is what it gave.
GIVEN = ("inputs", "cotangent", "params/", "noise", "permutation")

# Statistics that the vmoe routers log; no part of what a layer computes.
LOGGED = ("metrics/",)

# How a case is matched.
LAYER = "by the layer"
REARRANGED = "by the layer, on re-arranged inputs or weights"
FUNCTIONS = "by functions of keras_moe.routing and keras_moe.ops"
NOT_EXPRESSIBLE = "not expressible"


class Case(NamedTuple):
    """A row of a table: how a case is matched, or why it is not.

    Args:
        how: one of the four sentences above.
        compare: takes the `Golden` and raises where keras_moe differs.
        note: what is particular; of a case not expressible, the reason.
    """

    how: str
    compare: Callable | None
    note: str = ""


@functools.cache
def manifest():
    """The entries of all cases by name."""
    return json.loads((FOLDER / "manifest.json").read_text("utf-8"))


def digest(name):
    """sha256 of the file of a case."""
    return hashlib.sha256((FOLDER / f"{name}.npz").read_bytes()).hexdigest()


class Golden:
    """One case: its arrays, hyperparameters and float64 figures."""

    def __init__(self, name):
        entry = manifest()[name]
        self.name = name
        self.hyper = entry["hyperparameters"]
        self.figures = entry["float64_check"]
        with np.load(FOLDER / f"{name}.npz") as file:
            self.arrays = dict(file)

    def given(self):
        """Inputs and parameters: what gradients are taken of."""
        return {
            name: array
            for name, array in self.arrays.items()
            if name == "inputs" or name.startswith("params/")
        }

    def record(self, without=LOGGED):
        """What the code gave, but for names that start with `without`."""
        return {
            name: array
            for name, array in self.arrays.items()
            if not name.startswith((*GIVEN, *without))
        }

    def tolerance(self, quantity, expected):
        """How far keras_moe may be from a quantity of the record.

        30 times the distance of the record from float64, at least 1e-5; less
        for a gradient that is small all over, so that none hides below it.
        The relative part is for the few gradients that reach the hundreds,
        where one float32 rounding is more than 1e-5.
        """
        figure = self.figures.get(quantity, 0.0)
        peak = float(np.max(np.abs(expected), initial=0.0))
        small = "grads/" in quantity and 0.0 < peak < 1.0
        floor = 1e-5 * peak if small else 1e-5
        return {"rtol": 1e-5, "atol": max(floor, 30 * figure)}

    def check(self, found, record, loose=None):
        """Hold every quantity of the record to what was found.

        `loose` is `{start of a name: atol}` for what is known to be coarser;
        whoever passes it says why.
        """
        assert set(found) == set(record), set(found) ^ set(record)
        for quantity, expected in record.items():
            limits = self.tolerance(quantity, expected)
            for start, atol in (loose or {}).items():
                if quantity.startswith(start):
                    limits["atol"] = max(limits["atol"], atol)
            if not np.issubdtype(expected.dtype, np.floating):
                limits = {"rtol": 0, "atol": 0}
            np.testing.assert_allclose(
                found[quantity],
                expected,
                err_msg=f"{self.name}: {quantity}",
                **limits,
            )


# What the recorded gradients are gradients of.
OBJECTIVES = {
    "grads/": lambda found, cotangent: ops.sum(found["outputs"] * cotangent),
    "aux_grads/": lambda found, _: found["metrics/auxiliary_loss"],
    "z_loss_grads/": lambda found, _: found["router_z_loss"],
}


def evaluate(golden, forward, record):
    """Run `forward`, compiled, and its gradients: `{quantity: array}`.

    Args:
        golden: the case.
        forward: maps `{"inputs": tensor, "params/…": tensor}` to
            `{quantity: tensor}`, named as in the record.
        record: what is expected; it tells which gradients to take.
    """
    given = golden.given()
    found, cotangent = {}, golden.arrays["cotangent"]
    for prefix, objective in OBJECTIVES.items():
        if not any(name.startswith(prefix) for name in record):
            continue

        def scalar(*tensors, objective=objective, first=not found):
            result = forward(dict(zip(given, tensors)))
            fixed = ops.convert_to_tensor(cotangent)
            value = objective(result, fixed)
            return value, result if first else {}

        (_, more), grads = support.value_and_grads(scalar, *given.values())
        found.update(more)
        for name, grad in zip(given, grads):
            if prefix + name in record:
                found[prefix + name] = grad
    if not found:
        found = support.run(
            lambda *tensors: forward(dict(zip(given, tensors))),
            *given.values(),
        )
    return found


def compare(golden, forward, record=None, loose=None):
    """Evaluate, then check."""
    record = golden.record() if record is None else record
    found = evaluate(golden, forward, record)
    golden.check(found, record, loose)


# === Pieces that forwards are made of ===


def built(layer, golden):
    """The layer, built for the inputs of a case."""
    layer.build(golden.arrays["inputs"].shape)
    return layer


def holding(layer, weights):
    """A scope in which the layer's weights are the tensors `{name: …}`."""
    variables = {
        support.weight_name(layer, v): v for v in layer.trainable_variables
    }
    assert set(weights) == set(variables), set(weights) ^ set(variables)
    mapping = [(variables[name], weights[name]) for name in variables]
    return keras.StatelessScope(state_mapping=mapping, collect_losses=True)


def recorded_noise(layer, golden):
    """Give the layer the recorded unit noise in place of its own."""
    noise = golden.arrays.get("noise")
    if noise is not None:
        layer.noise = lambda shape, std: std * ops.convert_to_tensor(noise)
    return layer


def watch(layer):
    """A dictionary for the tokens (G,T,D) and the plan of the layer's call."""
    seen, route = {}, layer.route

    def remember(tokens, mask, training):
        seen["tokens"] = tokens
        seen["plan"] = route(tokens, mask, training)
        return seen["plan"]

    layer.route = remember
    return seen


def slots_of(layer, tokens, plan):
    """What the experts read, (G,E,S,D)."""
    return layer.dispatcher(plan, tokens.dtype).dispatch(tokens)


def straight(layer, tokens, plan, rounding=None):
    """Dispatch, experts and combine of a plan: `(slots, outputs)`.

    `rounding` is put where vmoe's Bfloat16Dispatcher casts: on the tokens
    before they are mixed and on what the experts say before it is combined.
    Copies of whole tokens are rounded again, which changes nothing but the
    gradient on its way back.
    """
    rounding = rounding or (lambda x: x)
    prepared = layer.dispatcher(plan, tokens.dtype)
    slots = prepared.dispatch(rounding(tokens))
    if isinstance(plan, routing.HardPlan):
        slots = rounding(slots)
    answers = rounding(layer.experts(slots, training=False))
    return slots, prepared.combine(answers)


def bfloat16(x):
    """Round to bfloat16; the gradient is rounded in the same way."""
    return ops.cast(ops.cast(x, "bfloat16"), "float32")


def pinned(computed, recorded):
    """The recorded values, with the gradient of the computed ones."""
    recorded = ops.convert_to_tensor(recorded)
    return computed + ops.stop_gradient(recorded - computed)


def layer_norm(x, scale, offset):
    """LayerNorm of torch, on the last axis."""
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return centred * ops.rsqrt(variance + 1e-5) * scale + offset


def expert_major(slots):
    """(G,E,S,D) -> (E,G·S,D), as the vmoe codes record expert inputs."""
    _, experts, _, features = slots.shape
    slots = ops.transpose(slots, (1, 0, 2, 3))
    return ops.reshape(slots, (experts, -1, features))


def mlp(given, kernels):
    """Weights of our experts from those of a reference code.

    `kernels` is `{"up": name, "down": name, …}` of the reference's modules,
    which hold `kernel` and `bias` (E,F); ours is (E,1,F).
    """
    weights = {}
    for ours, theirs in kernels.items():
        weights[f"experts/{ours}/kernel"] = given[f"{theirs}/kernel"]
        weights[f"experts/{ours}/bias"] = given[f"{theirs}/bias"][:, None]
    return weights


# Every weight is replaced: to draw them would take longer than the rest.
UNDRAWN = {"kernel_initializer": "zeros", "router_initializer": "zeros"}

VMOE_MLP = {"up": "params/Mlp/Dense_0", "down": "params/Mlp/Dense_1"}

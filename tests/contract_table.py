"""The layers that the contract tests hold to one contract, in one table.

Each row is a class and its arguments, every feature of the layers somewhere in
the table but `capacity_factor` of `SoftMoE`, which needs a known number of
tokens (test_soft_options.py). Capacities and group sizes suit the shapes below.
"""

import functools
from typing import NamedTuple

import keras
import numpy as np

from keras_moe import layers
from tests.support import BACKEND

EXPERTS, HIDDEN, FEATURES = 4, 8, 6
BATCH, TOKENS = 4, 8


class Row(NamedTuple):
    cls: type
    arguments: dict


def _row(cls, number, **arguments):
    """A row with E experts; `number` is the router's positional argument."""
    if "expert" not in arguments:
        arguments["intermediate_dim"] = HIDDEN
    name = {
        layers.SoftMoE: "slots_per_expert",
        layers.ExpertChoiceMoE: "capacity_factor",
        layers.TokenChoiceMoE: "top_k",
        layers.MixtureOfTokens: "group_size",
    }[cls]
    return Row(cls, {"num_experts": EXPERTS, name: number, **arguments})


def _dense(dtype="float32"):
    return keras.layers.Dense(
        FEATURES, activation="silu", name="template", dtype=dtype
    )


def _convolution(dtype="float32"):
    return keras.layers.Conv2D(
        FEATURES, 3, padding="same", name="template", dtype=dtype
    )


def _sequential(dtype="float32"):
    stack = [
        keras.layers.Dense(HIDDEN, activation="relu", dtype=dtype),
        keras.layers.Dropout(0.1, dtype=dtype),
        keras.layers.Dense(FEATURES, dtype=dtype),
    ]
    return keras.Sequential(stack, name="template")


LAYERS = {
    "soft": _row(layers.SoftMoE, 2),
    "soft_plain": _row(
        layers.SoftMoE,
        1,
        normalize=False,
        noise_std=0.1,
        activation="relu",
        dropout=0.1,
    ),
    "soft_gated": _row(
        layers.SoftMoE, 1, gated=True, activation="gelu_tanh", use_bias=False
    ),
    "soft_keys": _row(
        layers.SoftMoE,
        2,
        key_projection=True,
        expert_dropout=0.1,
        activation="relu",
    ),
    "soft_dense": _row(layers.SoftMoE, 2, expert=_dense()),
    "soft_grid": _row(
        layers.SoftMoE,
        4,
        slot_shape=(2, 2),
        output_dim=FEATURES,
        expert=_convolution(),
    ),
    "choice": _row(layers.ExpertChoiceMoE, 2.0, activation="silu"),
    "choice_grouped": _row(
        layers.ExpertChoiceMoE,
        1.5,
        group_size=16,
        noise_std=0.1,
        capacity_rounding="ceil",
        capacity_multiple_of=2,
        router_bias=True,
        activation="gelu_tanh",
        gated=True,
    ),
    "choice_capped": _row(
        layers.ExpertChoiceMoE, 2.0, max_experts_per_token=2, activation="relu"
    ),
    "choice_sequential": _row(
        layers.ExpertChoiceMoE, 2.0, expert=_sequential()
    ),
    "choice_threshold": _row(
        layers.ExpertChoiceMoE,
        2.0,
        selection="threshold",
        threshold_momentum=0.9,
        max_experts_per_token=3,
        noise_std=0.1,
        activation="relu",
    ),
    "choice_then_threshold": _row(
        layers.ExpertChoiceMoE,
        2.0,
        selection="top_k_then_threshold",
        group_size=16,
        activation="silu",
    ),
    "token": _row(layers.TokenChoiceMoE, 2, activation="relu"),
    "token_losses": _row(
        layers.TokenChoiceMoE,
        2,
        capacity_factor=1.5,
        capacity_multiple_of=2,
        batch_priority=True,
        group_size=16,
        noise_std=1.0,
        importance_loss=0.01,
        load_loss=0.01,
        balance_loss=0.01,
        z_loss=0.001,
        activation="gelu_tanh",
        gated=True,
    ),
    "dropless": _row(
        layers.TokenChoiceMoE, 2, capacity_factor=None, activation="relu"
    ),
    "dropless_gated": _row(
        layers.TokenChoiceMoE,
        3,
        capacity_factor=None,
        noise_std=1.0,
        z_loss=0.001,
        activation="silu",
        gated=True,
        use_bias=False,
        dropout=0.1,
    ),
    "mixture": _row(layers.MixtureOfTokens, 2, activation="relu"),
    "mixture_learned": _row(
        layers.MixtureOfTokens,
        2,
        learn_temperature=True,
        emit_over_experts=True,
        inference_mixing="self",
        activation="relu",
    ),
    "mixture_sequence": _row(
        layers.MixtureOfTokens,
        4,
        group_axis="sequence",
        temperature=0.5,
        padding="zeros",
        use_bias=False,
        activation="relu",
    ),
    "mixture_argmax": _row(
        layers.MixtureOfTokens, 2, inference_mixing="argmax", activation="relu"
    ),
}
# Rows whose experts are the package's own, with `experts.up` and `down`.
FEED_FORWARD = [k for k, r in LAYERS.items() if "expert" not in r.arguments]


# One row of each router, for what the rows' further features, such as gates or
# noise, cannot change.
EACH_ROUTER = ("soft", "choice", "token", "dropless", "mixture")


def _depths(inference, layer, **arguments):
    """A row of the wrapper, without the layer's residual connection."""
    arguments = {"capacity": 0.5, "residual": False, **arguments}
    return Row(
        layers.MixtureOfDepths,
        {"layer": layer(), "inference": inference, **arguments},
    )


# `MixtureOfDepths` around a layer: it has no experts, a masked token keeps its
# value, and the config of a layer in it changes when that is built.
WRAPPERS = {
    "depths": _depths("top_k", _dense),
    "depths_threshold": _depths(
        "threshold", _dense, threshold_momentum=0.5, inference_capacity=0.75
    ),
    "depths_predictor": _depths("predictor", _dense, predictor_dim=3),
}
EVERYTHING = {**LAYERS, **WRAPPERS}
TEMPLATES = {
    "soft_dense": ("expert", _dense),
    "soft_grid": ("expert", _convolution),
    "choice_sequential": ("expert", _sequential),
    "depths": ("layer", _dense),
    "depths_threshold": ("layer", _dense),
    "depths_predictor": ("layer", _dense),
}


def make(label, **more):
    """The layer of a row, fresh; with `dtype`, a template in it too."""
    row = EVERYTHING[label]
    if label in TEMPLATES:
        name, template = TEMPLATES[label]
        if "dtype" in more:
            more[name] = template(more["dtype"])
        elif name == "layer":  # which is used as it is, not cloned
            more[name] = template()
    return row.cls(**{**row.arguments, **more})


def make_model(label, *token_axes, residual=False, **more):
    """A functional model of one layer, whose name is `moe`."""
    inputs = keras.Input((*token_axes, FEATURES))
    outputs = make(label, name="moe", **more)(inputs)
    return keras.Model(inputs, inputs + outputs if residual else outputs)


def tokens_of(*shape, seed=0):
    """Random tokens that bfloat16 and float16 hold exactly."""
    values = np.random.default_rng(seed).normal(size=(*shape, FEATURES))
    return (np.round(values * 16) / 16).astype("float32")


def randomize(layer, seed=0):
    """Give every weight random values, biases and temperatures too."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if weight.dtype.startswith("float"):
            change = 0.2 * rng.normal(size=weight.shape)
            weight.assign(keras.ops.convert_to_numpy(weight) + change)


@functools.lru_cache(maxsize=4)
def _compiled(layer):
    import jax

    def call(weights, states, tokens, mask):
        outputs, _ = layer.stateless_call(
            weights, states, tokens, mask=mask, training=False
        )
        return outputs

    return jax.jit(call)


def evaluate(layer, tokens, mask=None):
    """The output outside training, as numpy; on jax compiled, to save time."""
    if BACKEND == "jax":
        weights = [v.value for v in layer.trainable_variables]
        states = [v.value for v in layer.non_trainable_variables]
        outputs = _compiled(layer)(weights, states, tokens, mask)
    else:
        outputs = layer(tokens, mask=mask, training=False)
    return keras.ops.convert_to_numpy(outputs)

"""Mixture of Tokens of llm-random, and what was tried around it (group E).

Each row's `forward` builds our weights from the reference's parameters, so
that gradients come out for the reference's own parameters.
"""

import functools

import numpy as np
from keras import ops

from keras_moe import layers
from tests.goldens import golden as goldens
from tests.goldens.golden import LAYER
from tests.goldens.golden import REARRANGED
from tests.goldens.golden import Case


def mixture_layer(golden, **arguments):
    """The layer of a case."""
    hyper = golden.hyper
    layer = layers.MixtureOfTokens(
        hyper["n_experts"],
        hyper["group_size"],
        temperature=hyper["temperature"],
        group_axis=("batch", "sequence")[hyper["sparsity_dim"]],
        emit_over_experts=hyper.get("emit_softmax_over_experts", False),
        inference_mixing=(
            "discrete" if hyper.get("use_discrete_routing") else "group"
        ),
        intermediate_dim=hyper["expert_size"],
        **goldens.UNDRAWN,
        activation="relu",
        use_bias=False,
        **arguments,
    )
    return goldens.built(layer, golden)


def experts(given, legacy=False):
    """Weights of the experts; the legacy classes hold both as (D,E,F)."""
    up, down = given["params/lin1"], given["params/lin2"]
    if legacy:
        up = ops.transpose(up, (1, 0, 2))
        down = ops.transpose(down, (1, 2, 0))
    return {"experts/up/kernel": up, "experts/down/kernel": down}


def as_recorded(golden, weights, legacy=False):
    """Our (G,T,E,1) in the axes in which the reference records weights."""
    hyper = golden.hyper
    size, count = hyper["group_size"], hyper["n_experts"]
    groups = (hyper["batch"] // size, hyper["seq_len"])
    if hyper["sparsity_dim"] == 1:
        groups = (hyper["batch"], hyper["seq_len"] // size)
    weights = ops.reshape(weights, (*groups, size, count))
    if legacy:  # (batch or its blocks, positions or theirs, expert, token)
        return ops.transpose(weights, (0, 1, 3, 2))
    if hyper["sparsity_dim"] == 1:  # (row, block of positions, token, expert)
        return weights
    return ops.transpose(weights, (1, 0, 2, 3))  # (position, block of rows, …)


def compare(golden, legacy=False, temperatures=None):
    """The layer.

    Args:
        golden: the case.
        legacy: whether the class is of the legacy layout.
        temperatures: maps the parameters of the case to the merge and emit
            temperatures that take effect, where those are learned.
    """
    layer = mixture_layer(golden, learn_temperature=temperatures is not None)
    seen = goldens.watch(layer)

    def forward(given):
        weights = {
            "router_kernel": given["params/controller"],
            **experts(given, legacy),
        }
        if temperatures is not None:
            # One number that all experts share becomes E equal ones; a
            # (E,1) of its own for each becomes (E,).
            shape = (golden.hyper["n_experts"],)
            merge, emit = (
                ops.broadcast_to(ops.reshape(t, (-1,)), shape)
                for t in temperatures(given)
            )
            weights["merge_temperature"] = merge
            weights["emit_temperature"] = emit
        with goldens.holding(layer, weights):
            outputs = layer(given["inputs"], training=False)
            dispatch, combine = seen["plan"].weights()
        return {
            "outputs": outputs,
            "merge_weights": as_recorded(golden, dispatch, legacy),
            "emit_weights": as_recorded(golden, combine, legacy),
        }

    goldens.compare(golden, forward, loose=LOOSE)


# The gradient of a temperature sums logit · gradient over all tokens of all
# groups. The reference takes the largest logit off before it divides, ours
# does not, so that larger terms cancel: up to 3e-5 in float32, of up to 5.
LOOSE = {"grads/params/temperature": 5e-5}

# === Learned temperatures ===


def shared(given):
    """One temperature for both softmaxes."""
    return given["params/temperature_emit"], given["params/temperature_emit"]


def separate(given):
    return given["params/temperature_merge"], given["params/temperature_emit"]


def merge_only(given):
    """The class forgets its emit temperature and takes the other twice."""
    return (given["params/temperature_merge"],) * 2


def positive(temperatures):
    """The class that keeps a temperature positive as exp(parameter - 1)."""
    return lambda given: [ops.exp(t - 1.0) for t in temperatures(given)]


def learned(temperatures):
    return functools.partial(compare, temperatures=temperatures)


# === Groups drawn at random ===


def random_groups(golden):
    """The layer on permuted tokens, put back behind it."""
    layer = mixture_layer(golden)
    order = golden.arrays["permutation"]
    inputs = golden.arrays["inputs"]
    # The permutation is of the sequence or of all tokens of the batch.
    flat = (-1, len(order), inputs.shape[-1])

    def permuted(x, by):
        x = ops.take(ops.reshape(x, flat), ops.convert_to_tensor(by), axis=1)
        return ops.reshape(x, inputs.shape)

    def forward(given):
        weights = {
            "router_kernel": given["params/controller"],
            **experts(given),
        }
        with goldens.holding(layer, weights):
            outputs = layer(permuted(given["inputs"], order))
        return {"outputs": permuted(outputs, np.argsort(order))}

    goldens.compare(golden, forward)


SUMS = "temperature gradients to 5e-5, see LOOSE"

legacy = functools.partial(compare, legacy=True)

CASES = {
    "E_mot_sd0": Case(LAYER, compare),
    "E_mot_sd1": Case(LAYER, compare),
    "E_mot_sd0_T0p5": Case(LAYER, compare),
    "E_mot_sd1_T0p5": Case(LAYER, compare),
    "E_mot_sd0_emit_experts": Case(LAYER, compare),
    "E_mot_sd1_emit_experts_T0p7": Case(LAYER, compare),
    "E_mot_expert_size_arg": Case(LAYER, compare),
    "E_mot_flop_matched": Case(LAYER, compare),
    "E_mot_group_is_batch": Case(LAYER, compare),
    "E_mot_group_size_1": Case(LAYER, compare),
    "E_mot_discrete": Case(LAYER, compare, "forward only, as recorded"),
    "E_mot_discrete_emit_experts": Case(
        LAYER, compare, "forward only, as recorded"
    ),
    "E_mot_adatemp_as_is": Case(
        LAYER, compare, "the class never reads its learned temperature"
    ),
    "E_mot_adatemp_intended_shared": Case(
        REARRANGED,
        learned(shared),
        f"one temperature, repeated per expert; {SUMS}",
    ),
    "E_mot_adatemp_intended_per_expert_separate": Case(
        LAYER, learned(separate), SUMS
    ),
    "E_mot_adatemp_positive": Case(
        REARRANGED,
        learned(positive(shared)),
        f"our weight is exp(theirs - 1); {SUMS}",
    ),
    "E_mot_adatemp_positive_separate": Case(
        REARRANGED,
        learned(positive(merge_only)),
        "our weights are exp(theirs - 1); the class never reads its emit "
        f"temperature; {SUMS}",
    ),
    "E_mot_adatemp_positive_separate_emit_experts": Case(
        REARRANGED,
        learned(positive(separate)),
        f"our weights are exp(theirs - 1); {SUMS}",
    ),
    "E_mot_random_groups": Case(
        REARRANGED, random_groups, "tokens permuted, and back"
    ),
    "E_mot_random_groups_whole_batch": Case(
        REARRANGED, random_groups, "tokens permuted, and back"
    ),
    "E_mot_legacy_sd0": Case(REARRANGED, legacy, "weights transposed"),
    "E_mot_legacy_sd1": Case(REARRANGED, legacy, "weights transposed"),
}

"""Token choice of vmoe, with its auxiliary losses (group D)."""

import numpy as np
from keras import ops

from keras_moe import layers
from keras_moe import losses
from keras_moe import routing
from tests.goldens import golden as goldens
from tests.goldens.golden import FUNCTIONS
from tests.goldens.golden import LAYER
from tests.goldens.golden import Case


def token_choice_layer(golden):
    """The layer of a case; checks that its capacity is the case's."""
    hyper = golden.hyper
    dispatcher, tokens = hyper["dispatcher"], hyper["group_size"]
    top_k, experts = hyper["num_selected_experts"], hyper["num_experts"]
    if "capacity" in dispatcher:
        factor = dispatcher["capacity"] * experts / (tokens * top_k)
        multiple = 1
    else:
        factor = dispatcher["capacity_factor"]
        multiple = dispatcher.get("capacity_multiple_of", 4)
    layer = layers.TokenChoiceMoE(
        experts,
        top_k,
        capacity_factor=factor,
        capacity_multiple_of=multiple,
        batch_priority=dispatcher["batch_priority"],
        group_size=tokens,
        noise_std=hyper["noise_std"],
        importance_loss=hyper["importance_loss_weight"],
        load_loss=hyper["load_loss_weight"],
        balance_loss=hyper["gshard_loss_weight"],
        intermediate_dim=hyper["mlp_dim"],
        **goldens.UNDRAWN,
        activation="gelu_tanh",
    )
    assert layer.capacity(tokens) == hyper["capacity"]
    goldens.recorded_noise(layer, golden)
    return goldens.built(layer, golden)


def token_choice_weights(given):
    return {
        "router_kernel": given["params/Router/dense/kernel"],
        **goldens.mlp(given, goldens.VMOE_MLP),
    }


def record_of(golden):
    """What the code gave, losses as the mean over groups.

    The buffer position of a pair that is dropped is -1 here: the reference
    counts on beyond the capacity, our plan holds capacity slots only.
    """
    record = golden.record(without=())
    for name in record:
        if name.startswith("metrics/"):
            record[name] = np.mean(record[name])
    dropped = record["item_dropped"][..., None].astype(bool)
    place = np.where(dropped, -1, record["indices"][..., 1:])
    expert = record["indices"][..., :1]
    record["indices"] = np.concatenate([expert, place], axis=-1)
    return record


def described(golden, plan, logits, noisy, gates, slots):
    """A plan and its losses as the vmoe code records them."""
    top_k = golden.hyper["num_selected_experts"]
    dispatch, combine = plan.weights()
    best = routing.descending(gates)[:, :, :top_k]  # (G,T,k)
    hits = ops.take_along_axis(dispatch, best[..., None], axis=2)  # (G,T,k,S)
    dispatched = ops.sum(hits, axis=-1) > 0
    first = ops.cast(ops.argmax(hits, axis=-1), "int32")
    place = ops.where(dispatched, first, -1)
    found = {
        "einsum_dispatch_weights": dispatch,
        "einsum_combine_weights": combine,
        "indices": ops.stack([ops.cast(best, "int32"), place], axis=-1),
        "indices_combine_weights": ops.take_along_axis(gates, best, axis=2),
        "item_dropped": ops.logical_not(dispatched),
        "logits": logits,
        "gates": gates,
        "expert_inputs": goldens.expert_major(slots),
    }
    clean = ops.softmax(logits, axis=-1)
    found["metrics/importance_loss"] = losses.importance_loss(clean)
    found["metrics/gshard_loss"] = losses.balance_loss(gates)
    if noisy is not logits:
        std = golden.hyper["noise_std"] / golden.hyper["num_experts"]
        found["metrics/load_loss"] = losses.load_loss(logits, noisy, std, top_k)
    return found


def compare(golden, rounding=None):
    """The layer, or its route with vmoe's rounding around the experts."""
    layer = token_choice_layer(golden)
    seen = goldens.watch(layer)
    training = not golden.hyper["deterministic"]

    def forward(given):
        weights = token_choice_weights(given)
        with goldens.holding(layer, weights) as scope:
            if rounding is None:
                outputs = layer(given["inputs"], training=training)
                tokens, plan = seen["tokens"], seen["plan"]
                slots = goldens.slots_of(layer, tokens, plan)
            else:
                tokens, _, join = layer.split(given["inputs"], None, False)
                plan = layer.route(tokens, None, False)
                slots, outputs = goldens.straight(layer, tokens, plan, rounding)
                outputs = join(outputs)
            auxiliary = sum(scope.losses)
            logits = noisy = layer.logits(tokens)
            if training:
                std = golden.hyper["noise_std"] / golden.hyper["num_experts"]
                noisy = logits + layer.noise(None, std)
            gates = ops.softmax(noisy, axis=-1)
        return {
            "outputs": outputs,
            "metrics/auxiliary_loss": auxiliary,
            **described(golden, plan, logits, noisy, gates, slots),
        }

    goldens.compare(golden, forward, record_of(golden))


def compare_bfloat16(golden):
    compare(golden, goldens.bfloat16)


def compare_ties(golden):
    """Route on the recorded gates: recomputed ones may break a tie."""
    layer = token_choice_layer(golden)
    hyper = golden.hyper

    def forward(given):
        with goldens.holding(layer, token_choice_weights(given)):
            tokens, _, join = layer.split(given["inputs"], None, False)
            logits = layer.logits(tokens)
            gates = ops.softmax(logits, axis=-1)
            gates = goldens.pinned(gates, golden.arrays["gates"])
            plan = routing.token_choice(
                gates,
                hyper["num_selected_experts"],
                hyper["capacity"],
                batch_priority=hyper["dispatcher"]["batch_priority"],
            )
            slots, outputs = goldens.straight(layer, tokens, plan)
        found = described(golden, plan, logits, logits, gates, slots)
        # Without noise there is no load loss, and gshard has weight 0.
        auxiliary = (
            hyper["importance_loss_weight"] * found["metrics/importance_loss"]
        )
        return {
            "outputs": join(outputs),
            "metrics/auxiliary_loss": auxiliary,
            **found,
        }

    goldens.compare(golden, forward, record_of(golden))


NOISE = "recorded noise in place of its own"

CASES = {
    "D_vmoe_top1_einsum": Case(LAYER, compare),
    "D_vmoe_top2_einsum": Case(LAYER, compare),
    "D_vmoe_top2_indices": Case(LAYER, compare),
    "D_vmoe_top2_drop": Case(LAYER, compare),
    "D_vmoe_top2_drop_bpr": Case(LAYER, compare),
    "D_vmoe_top1_indices_bpr": Case(LAYER, compare),
    "D_vmoe_top3_bf16": Case(FUNCTIONS, compare_bfloat16, "rounded tokens"),
    "D_vmoe_top2_noise_all_losses": Case(LAYER, compare, NOISE),
    "D_vmoe_top1_noise_load": Case(LAYER, compare, NOISE),
    "D_vmoe_top2_ties": Case(FUNCTIONS, compare_ties, "on the recorded gates"),
    "D_vmoe_top2_group_two_sequences": Case(LAYER, compare),
}

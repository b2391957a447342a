"""Soft MoE of vmoe (group A)."""

from keras import ops

from keras_moe import layers
from keras_moe import routing
from tests.goldens import golden as goldens
from tests.goldens.golden import LAYER
from tests.goldens.golden import REARRANGED
from tests.goldens.golden import Case


def compare(golden):
    """Layer in float32, then with vmoe's rounding to bfloat16."""
    hyper = golden.hyper
    layer = goldens.built(
        layers.SoftMoE(
            hyper["num_experts"],
            slots_per_expert(hyper),
            intermediate_dim=hyper["mlp_dim"],
            **goldens.UNDRAWN,
            activation="gelu_tanh",
            noise_std=hyper["noise_std"],
        ),
        golden,
    )
    goldens.recorded_noise(layer, golden)
    seen = goldens.watch(layer)
    training = not hyper["deterministic"]
    # A group may span sequences, which the layer has no argument for.
    grouped = (-1, hyper["group_size"], hyper["dim"])

    def weights(given):
        return {
            "slot_embedding": given["params/Router/mu"],
            "scale": given["params/Router/scale"],
            **goldens.mlp(given, goldens.VMOE_MLP),
        }

    def forward(given):
        tokens = ops.reshape(given["inputs"], grouped)
        with goldens.holding(layer, weights(given)):
            outputs = layer(tokens, training=training)
            plan = seen["plan"]
            slots = goldens.slots_of(layer, tokens, plan)
        return {
            "outputs": ops.reshape(outputs, ops.shape(given["inputs"])),
            "dispatch_weights": plan.dispatch,
            "combine_weights": plan.combine,
            "slots_f32": goldens.expert_major(slots),
        }

    def rounded(given):
        tokens = ops.reshape(given["inputs"], grouped)
        with goldens.holding(layer, weights(given)):
            plan = layer.route(tokens, None, training)
            slots, outputs = goldens.straight(
                layer, tokens, plan, goldens.bfloat16
            )
        return {
            "outputs": ops.reshape(outputs, ops.shape(given["inputs"])),
            "slots_bf16": goldens.expert_major(slots),
        }

    goldens.compare(
        golden, forward, golden.record(("metrics/", "bf16/", "slots_bf16"))
    )
    record = golden.record(("metrics/",))
    record = {
        n.removeprefix("bf16/"): a for n, a in record.items() if "bf16" in n
    }
    goldens.compare(golden, rounded, record)


def slots_per_expert(hyper):
    """What the case asks for, by a number or by a capacity factor."""
    if hyper["num_slots_arg"] is not None:
        return hyper["num_slots_arg"]
    return routing.expert_capacity(
        hyper["group_size"],
        hyper["num_experts"],
        hyper["capacity_factor_arg"],
        rounding="round",
    )


CASES = {
    "A_soft_p1": Case(LAYER, compare),
    "A_soft_p3": Case(LAYER, compare),
    "A_soft_more_slots_than_tokens": Case(LAYER, compare),
    "A_soft_fewer_slots_than_tokens": Case(LAYER, compare),
    "A_soft_capacity_half_even_down": Case(LAYER, compare),
    "A_soft_capacity_half_even_up": Case(LAYER, compare),
    "A_soft_capacity_factor_1p5": Case(LAYER, compare),
    "A_soft_batch1_tiny": Case(LAYER, compare),
    "A_soft_scale_2p5": Case(LAYER, compare),
    "A_soft_scale_30": Case(LAYER, compare),
    "A_soft_small_norm_inputs": Case(LAYER, compare),
    "A_soft_group_two_sequences": Case(
        REARRANGED, compare, "inputs are reshaped into groups"
    ),
    "A_soft_noise": Case(LAYER, compare, "recorded noise in place of its own"),
}

"""Expert Choice of vmoe and of flaxformer (group C)."""

from keras import ops

from keras_moe import layers
from keras_moe import losses
from keras_moe import routing
from tests.goldens import golden as goldens
from tests.goldens.golden import FUNCTIONS
from tests.goldens.golden import LAYER
from tests.goldens.golden import Case

# === vmoe ===


def vmoe_layer(golden):
    """The layer of a vmoe case; checks that its capacity is the case's."""
    hyper = golden.hyper
    dispatcher, tokens = hyper["dispatcher"], hyper["group_size"]
    # vmoe's defaults where the case says nothing
    rounding = dispatcher.get("capacity_ceil_or_round", "ceil")
    multiple = dispatcher.get("capacity_multiple_of", 4)
    if "capacity" in dispatcher:
        factor = dispatcher["capacity"] * hyper["num_experts"] / tokens
        rounding, multiple = "round", 1
    else:
        factor = dispatcher["capacity_factor"]
    layer = layers.ExpertChoiceMoE(
        hyper["num_experts"],
        factor,
        capacity_rounding=rounding,
        capacity_multiple_of=multiple,
        intermediate_dim=hyper["mlp_dim"],
        **goldens.UNDRAWN,
        activation="gelu_tanh",
        group_size=tokens,
        noise_std=hyper["noise_std"],
    )
    assert layer.capacity(tokens) == hyper["capacity"]
    goldens.recorded_noise(layer, golden)
    return goldens.built(layer, golden)


def vmoe_weights(given):
    return {
        "router_kernel": given["params/Router/dense/kernel"],
        **goldens.mlp(given, goldens.VMOE_MLP),
    }


def vmoe_record(plan, gates, slots):
    """A plan as the vmoe code records it."""
    dispatch, combine = plan.weights()
    return {
        "gates": gates,
        "dispatch_weights": dispatch,
        "combine_weights": combine,
        "selected_indices": plan.token_index,
        "num_experts_per_item": ops.sum(dispatch, axis=(2, 3)),
        "expert_inputs": goldens.expert_major(slots),
    }


def vmoe(golden):
    """The layer itself."""
    layer = vmoe_layer(golden)
    seen = goldens.watch(layer)
    training = not golden.hyper["deterministic"]

    def forward(given):
        with goldens.holding(layer, vmoe_weights(given)):
            outputs = layer(given["inputs"], training=training)
            tokens, plan = seen["tokens"], seen["plan"]
            slots = goldens.slots_of(layer, tokens, plan)
            logits = layer.logits(tokens)
            if training:
                std = golden.hyper["noise_std"] / golden.hyper["num_experts"]
                logits = logits + layer.noise(None, std)
        gates = ops.softmax(logits, axis=-1)
        return {"outputs": outputs, **vmoe_record(plan, gates, slots)}

    goldens.compare(golden, forward)


def vmoe_ties(golden):
    """Route on the recorded gates: recomputed ones may break a tie."""
    layer = vmoe_layer(golden)

    def forward(given):
        with goldens.holding(layer, vmoe_weights(given)):
            tokens, _, join = layer.split(given["inputs"], None, False)
            gates = ops.softmax(layer.logits(tokens), axis=-1)
            gates = goldens.pinned(gates, golden.arrays["gates"])
            plan = routing.expert_choice(gates, golden.hyper["capacity"])
            slots, outputs = goldens.straight(layer, tokens, plan)
        return {"outputs": join(outputs), **vmoe_record(plan, gates, slots)}

    goldens.compare(golden, forward)


def vmoe_bfloat16(golden):
    """The layer's route, with vmoe's rounding to bfloat16 around experts."""
    layer = vmoe_layer(golden)

    def forward(given):
        with goldens.holding(layer, vmoe_weights(given)):
            tokens, _, join = layer.split(given["inputs"], None, False)
            plan = layer.route(tokens, None, False)
            slots, outputs = goldens.straight(
                layer, tokens, plan, goldens.bfloat16
            )
            gates = ops.softmax(layer.logits(tokens), axis=-1)
        return {"outputs": join(outputs), **vmoe_record(plan, gates, slots)}

    # What lies next to the middle of two bfloat16 values may be rounded to
    # either: half a step of the gradients, which are below 1/4.
    goldens.compare(golden, forward, loose={"grads/inputs": 2**-11})


# === flaxformer ===

# The auxiliary loss of its expert choice is always 0.
UNREAD = (*goldens.LOGGED, "auxiliary_loss")


def flaxformer_layer(golden):
    hyper = golden.hyper
    tokens, experts = hyper["tokens_per_group"], hyper["num_experts"]
    # `min_expert_capacity` is no argument of ours: ask for what it gives.
    least = hyper["min_expert_capacity"] * experts / tokens
    layer = layers.ExpertChoiceMoE(
        experts,
        max(hyper["capacity_factor"], least),
        intermediate_dim=hyper["mlp_dim"],
        **goldens.UNDRAWN,
        activation="gelu_tanh",
        gated=len(hyper["activations"]) == 2,
        group_size=tokens,
        router_bias=hyper["router_use_bias"],
    )
    assert layer.capacity(tokens) == hyper["expert_capacity"]
    return goldens.built(layer, golden)


def flaxformer_weights(golden, given):
    router = "params/router/router_weights/w"
    weights = {"router_kernel": given[f"{router}/kernel"]}
    if golden.hyper["router_use_bias"]:
        weights["router_bias"] = given[f"{router}/bias"]
    if len(golden.hyper["activations"]) == 2:
        # gelu(wi_0 x) · (wi_1 x)
        names = {"gate": "params/expert/wi_0", "up": "params/expert/wi_1"}
    else:
        names = {"up": "params/expert/wi"}
    names["down"] = "params/expert/wo"
    return {**weights, **goldens.mlp(given, names)}


def flaxformer_logits(layer, tokens):
    logits = layer.logits(tokens)
    return logits + layer.router_bias_weight if layer.router_bias else logits


def flaxformer_record(logits, probs, plan):
    dispatch, combine = plan.weights()
    return {
        "router_logits": logits,
        "router_probs": probs,
        "dispatch_mask": dispatch,
        "combine_array": combine,
        "selected_indices": plan.token_index,
    }


def flaxformer(golden):
    """The layer, with a mask where padding is ignored."""
    layer = flaxformer_layer(golden)
    seen = goldens.watch(layer)
    mask = None
    if golden.hyper["ignore_padding_tokens"]:
        mask = (golden.arrays["inputs"] != 0).any(axis=-1)

    def forward(given):
        keep = None if mask is None else ops.convert_to_tensor(mask)
        with goldens.holding(layer, flaxformer_weights(golden, given)):
            outputs = layer(given["inputs"], mask=keep)
            logits = flaxformer_logits(layer, seen["tokens"])
        # The reference zeroes the logits of padding for the z-loss, and
        # counts them; losses.z_loss would leave masked tokens out.
        counted = logits
        if keep is not None:  # a group is a sequence here
            counted = ops.where(keep[:, :, None], logits, 0.0)
        return {
            "outputs": outputs,
            "router_z_loss": losses.z_loss(counted),
            **flaxformer_record(
                logits, ops.softmax(logits, axis=-1), seen["plan"]
            ),
        }

    goldens.compare(golden, forward, golden.record(UNREAD))


def flaxformer_bfloat16(golden):
    """A router in bfloat16, emulated; its softmax is pinned to the record."""
    layer = flaxformer_layer(golden)
    rounded = goldens.bfloat16

    def forward(given):
        weights = flaxformer_weights(golden, given)
        with goldens.holding(layer, weights):
            tokens, _, join = layer.split(given["inputs"], None, False)
            logits = ops.einsum(
                "gtd,de->gte",
                rounded(tokens),
                rounded(weights["router_kernel"]),
            )
            logits = rounded(logits) + rounded(weights["router_bias"])
            logits = rounded(logits)
            gates = rounded(ops.softmax(logits, axis=-1))
            chosen = goldens.pinned(gates, golden.arrays["router_probs"])
            plan = routing.expert_choice(
                chosen, golden.hyper["expert_capacity"]
            )
            _, outputs = goldens.straight(layer, tokens, plan)
        return {
            "outputs": join(outputs),
            "router_z_loss": losses.z_loss(logits),
            **flaxformer_record(logits, gates, plan),
        }

    goldens.compare(golden, forward, golden.record(UNREAD), LOOSE)


# Its softmax, the softmax's gradient and the logsumexp of its z-loss compute
# in bfloat16, each sum rounded to 8 bits in an order of its own: one step is
# 2^-8 at 1 and 2^-5 at 4 to 8, the size of the router's largest gradients.
# All that does not pass through the router's gradient stays at float32.
LOOSE = {
    "router_probs": 2**-8,
    "router_z_loss": 1e-2,
    "grads/inputs": 2**-5,
    "grads/params/router": 2**-4,
    "z_loss_grads": 2**-5,
}
CASES = {
    "C_vmoe_ec_round_m1": Case(LAYER, vmoe),
    "C_vmoe_ec_default_ceil_multiple4": Case(LAYER, vmoe),
    "C_vmoe_ec_cf2_bf16": Case(FUNCTIONS, vmoe_bfloat16, "rounded tokens"),
    "C_vmoe_ec_capacity3": Case(LAYER, vmoe),
    "C_vmoe_ec_ties": Case(FUNCTIONS, vmoe_ties, "on the recorded gates"),
    "C_vmoe_ec_noise": Case(LAYER, vmoe, "recorded noise in place of its own"),
    "C_vmoe_ec_group_two_sequences": Case(LAYER, vmoe),
    "C_flaxformer_ec": Case(LAYER, flaxformer),
    "C_flaxformer_ec_cf2_no_bias": Case(LAYER, flaxformer),
    "C_flaxformer_ec_gated": Case(LAYER, flaxformer),
    "C_flaxformer_ec_padding": Case(
        LAYER,
        flaxformer,
        "with a mask. The reference may choose padding with gate 0, ours never "
        "does; here every expert finds enough tokens, so plans are equal",
    ),
    "C_flaxformer_ec_router_bf16": Case(
        FUNCTIONS,
        flaxformer_bfloat16,
        "bfloat16 router emulated, choices on the recorded gates; what passes "
        "through the router's gradient holds to bfloat16 only, see LOOSE",
    ),
}

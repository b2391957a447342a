"""Expert Choice of llm-random (group C).

It differs from the paper's in what the gates are a softmax over (the tokens
that compete), in who competes (all tokens of the batch, or those at one
position of it) and in a LayerNorm behind the layer. `routing.expert_choice`
takes any gates, so only these are made here.
"""

from keras import ops

from keras_moe import grouping
from keras_moe import layers
from keras_moe import losses
from keras_moe import routing
from tests.goldens import golden as goldens
from tests.goldens.golden import FUNCTIONS
from tests.goldens.golden import Case

MLP = "params/expert_inner_function."


def compare(golden):
    hyper = golden.hyper
    gated = hyper["expert"].startswith("ExpertGated")
    # The layer lends its experts and its router's product.
    layer = goldens.built(
        layers.ExpertChoiceMoE(
            hyper["n_experts"],
            hyper["topk_fraction"] * hyper["n_experts"],
            intermediate_dim=hyper["expert_size"],
            **goldens.UNDRAWN,
            activation="silu" if gated else "relu",
            gated=gated,
            use_bias=False,
        ),
        golden,
    )

    def forward(given):
        tokens, restore = grouped(hyper, given["inputs"])
        with goldens.holding(layer, weights(given, gated)):
            logits = layer.logits(tokens)
            gates = gates_of(hyper, logits)
            capacity = layer.capacity(tokens.shape[1])
            plan = routing.expert_choice(gates, capacity)
            _, outputs = goldens.straight(layer, tokens, plan)
        outputs = restore(outputs)
        if hyper.get("use_layer_norm", True):
            outputs = goldens.layer_norm(
                outputs, given["params/ln.l.weight"], given["params/ln.l.bias"]
            )
        found = {"outputs": outputs, **described(hyper, gates, plan)}
        if hyper["zloss_weight"]:
            found["z_loss"] = hyper["zloss_weight"] * losses.z_loss(logits)
        return found

    goldens.compare(golden, forward)


def grouped(hyper, inputs):
    """Tokens (G,T,D) of those who compete, and the way back."""
    shape = inputs.shape
    if not hyper.get("group_by_batch"):
        tokens = ops.reshape(inputs, (1, -1, shape[2]))
        return tokens, lambda outputs: ops.reshape(outputs, shape)
    rows = hyper.get("group_size", shape[0])
    reshaped = ops.reshape(inputs, (rows, -1, shape[2]))
    tokens, _, restore = grouping.across_batch(reshaped, None, rows)
    return tokens, lambda outputs: ops.reshape(restore(outputs), shape)


def weights(given, gated):
    up = given[f"{MLP}lin1_weight"]
    result = {
        "experts/up/kernel": up,
        "experts/down/kernel": given[f"{MLP}lin2_weight"],
    }
    if gated:
        result["experts/gate/kernel"] = given[f"{MLP}gate_weight"]
    # Without a router of its own, the mean over the experts' hidden features.
    kernel = given.get("params/gating.gate")
    if kernel is None:
        kernel = ops.transpose(ops.mean(up, axis=2))
    return {**result, "router_kernel": kernel}


def gates_of(hyper, logits):
    over = hyper.get("softmax_over", "tokens")
    gates = ops.softmax(logits, axis={"tokens": 1, "experts": 2}[over])
    return gates ** hyper.get("moe_values_exp", 1.0)


def described(hyper, gates, plan):
    """Gates and plan in the axes in which the reference records them."""
    groups, capacity = plan.token_index.shape[0], plan.token_index.shape[2]
    if not hyper.get("group_by_batch"):
        return {
            "gate_out": ops.transpose(gates[0]),
            "topk_indices": plan.token_index[0],
            "topk_values": plan.combine_weights[0],
        }
    token = ops.transpose(plan.token_index, (1, 2, 0))  # (E,S,G)
    gate = ops.transpose(plan.combine_weights, (1, 2, 0))
    if not hyper.get("one_hot_impl"):
        # The index of a token is row · positions + position there.
        token = token * groups + ops.arange(groups, dtype="int32")
        token = ops.reshape(token, (-1, capacity * groups))
        gate = ops.reshape(gate, (-1, capacity * groups))
    return {
        "gate_out": ops.transpose(gates, (2, 1, 0)),  # (E,T,G)
        "topk_indices": token,
        "topk_values": gate,
    }


CASES = {
    "C_llmr_ec_softmax_tokens": Case(FUNCTIONS, compare),
    "C_llmr_ec_softmax_experts": Case(FUNCTIONS, compare),
    "C_llmr_ec_group_by_batch": Case(FUNCTIONS, compare),
    "C_llmr_ec_group_by_batch_onehot": Case(FUNCTIONS, compare),
    "C_llmr_ec_group_by_batch_bmm": Case(FUNCTIONS, compare),
    "C_llmr_ec_group_by_batch_softmax_experts": Case(FUNCTIONS, compare),
    "C_llmr_ec_no_layer_norm": Case(FUNCTIONS, compare),
    "C_llmr_ec_gated_experts": Case(FUNCTIONS, compare),
    "C_llmr_ec_group_size2": Case(FUNCTIONS, compare),
    "C_llmr_ec_moe_values_exp2": Case(FUNCTIONS, compare, "gates squared"),
    "C_llmr_ec_router_from_lin1": Case(
        FUNCTIONS, compare, "router is the mean of the experts' kernels"
    ),
    "C_llmr_ec_round_half_even": Case(FUNCTIONS, compare),
}

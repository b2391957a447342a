"""Variants of Mixture of Tokens that llm-random tried (group E, design)."""

from keras import ops

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests.goldens import golden as goldens
from tests.goldens import mixture
from tests.goldens.golden import FUNCTIONS
from tests.goldens.golden import NOT_EXPRESSIBLE
from tests.goldens.golden import Case


def compare(golden, plans, combine_scale=1.0):
    """One plan to dispatch and one to combine, from the case's parameters.

    `plans(given, tokens, temperature)` returns the two.
    """
    hyper = golden.hyper
    layer = mixture.mixture_layer(golden)

    def norm(slots, given, name):
        if f"params/{name}.weight" not in given:
            return slots
        scale = given[f"params/{name}.weight"]
        offset = given[f"params/{name}.bias"]
        return goldens.layer_norm(slots, scale, offset)

    def forward(given):
        # The layer lends its groups and its experts; the router is the case's.
        weights = {
            "router_kernel": ops.zeros((hyper["dm"], hyper["n_experts"])),
            **mixture.experts(given, legacy=True),
        }
        with goldens.holding(layer, weights):
            tokens, _, join = layer.split(given["inputs"], None, False)
            merge, emit = plans(given, tokens, hyper["temperature"])
            prepared = moe_ops.make_dispatcher(merge, tokens.dtype, "reference")
            slots = prepared.dispatch(tokens)
            slots = layer.experts(norm(slots, given, "layernorm1"))
            slots = norm(slots, given, "layernorm2")
            prepared = moe_ops.make_dispatcher(emit, tokens.dtype, "reference")
            outputs = prepared.combine(slots) * combine_scale
        emitted = emit.combine * combine_scale
        return {
            "outputs": join(outputs),
            "merge_weights": mixture.as_recorded(golden, merge.dispatch, True),
            "emit_weights": mixture.as_recorded(golden, emitted, True),
        }

    goldens.compare(golden, forward)


def plan(tokens, kernel, temperature, **more):
    return routing.mixture_of_tokens(
        tokens, kernel, merge_temperature=temperature, **more
    )


def layer_norms(golden):
    """One router; LayerNorm before and behind the experts."""

    def plans(given, tokens, temperature):
        both = plan(tokens, given["params/controller"], temperature)
        return both, both

    compare(golden, plans)


def two_controllers(golden):
    """Merge and emit have a controller each."""

    def plans(given, tokens, temperature):
        return (
            plan(tokens, given["params/controller_merge"], temperature),
            plan(tokens, given["params/controller_emit"], temperature),
        )

    compare(golden, plans)


def common_base(golden):
    """The two controllers share a summand; temperatures may be learned."""

    def plans(given, tokens, temperature):
        base = given["params/controller_base"]
        emit = given.get("params/temperature_emit")
        merge = given.get("params/temperature_merge", emit)
        if emit is None:
            merge = emit = temperature
        return (
            plan(tokens, given["params/controller_merge"] + base, merge),
            plan(tokens, given["params/controller_emit"] + base, emit),
        )

    compare(golden, plans)


def weighted(golden):
    """The two controllers are weighted means with a common one."""

    def plans(given, tokens, temperature):
        result = []
        for side in ("merge", "emit"):
            share = given.get(f"params/{side}_parameters_matrix_weight")
            if share is None:
                share = given["params/parameters_matrix_weight"]
            own = given[f"params/controller_{side}"]
            base = given["params/controller_base"]
            kernel = share * own + (1.0 - share) * base
            result.append(plan(tokens, kernel, temperature))
        return result

    compare(golden, plans)


def raw_merge(golden):
    """What comes back is the plain sum: T times the even mixture."""

    def plans(given, tokens, temperature):
        kernel = given["params/controller"]
        even = plan(tokens, ops.zeros_like(kernel), temperature)
        return plan(tokens, kernel, temperature), even

    compare(golden, plans, combine_scale=golden.hyper["group_size"])


def top_merge(golden):
    """What comes back goes to the token of the largest weight, as it is."""

    def plans(given, tokens, temperature):
        kernel = given["params/controller"]
        largest = plan(tokens, kernel, temperature, discrete=True)
        return plan(tokens, kernel, temperature), largest

    compare(golden, plans)


NORMS = "LayerNorm of Keras around the experts"
TWO_PLANS = "one plan dispatches, another combines"

CASES = {
    "E_mot_design_layernorm_sd0": Case(FUNCTIONS, layer_norms, NORMS),
    "E_mot_design_layernorm_sd1": Case(FUNCTIONS, layer_norms, NORMS),
    "E_mot_design_merge_diff_simple_sd0": Case(
        FUNCTIONS, two_controllers, TWO_PLANS
    ),
    "E_mot_design_merge_diff_simple_sd1": Case(
        FUNCTIONS, two_controllers, TWO_PLANS
    ),
    "E_mot_design_merge_diff_comm_base_sd0": Case(
        FUNCTIONS, common_base, TWO_PLANS
    ),
    "E_mot_design_final_shared_sd0": Case(FUNCTIONS, common_base, TWO_PLANS),
    "E_mot_design_final_per_expert_separate_sd0": Case(
        FUNCTIONS, common_base, TWO_PLANS
    ),
    "E_mot_design_common_weighted_sd0": Case(FUNCTIONS, weighted, TWO_PLANS),
    "E_mot_design_separate_weighted_sd0": Case(FUNCTIONS, weighted, TWO_PLANS),
    "E_mot_design_rawmerge_sd0": Case(FUNCTIONS, raw_merge, TWO_PLANS),
    "E_mot_design_rawmerge_sd1": Case(FUNCTIONS, raw_merge, TWO_PLANS),
    "E_mot_design_topmerge_sd0": Case(FUNCTIONS, top_merge, TWO_PLANS),
    "E_mot_design_topmerge_sd1": Case(FUNCTIONS, top_merge, TWO_PLANS),
    "E_mot_design_nosoft_sd0": Case(
        NOT_EXPRESSIBLE,
        None,
        "its weights are the raw logits, of either sign and with no sum; the "
        "weights of a SoftPlan are a softmax, and a HardPlan reads whole "
        "tokens",
    ),
}

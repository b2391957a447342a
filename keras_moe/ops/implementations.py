"""The table of implementations, and the order in which "auto" takes them."""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras_moe.ops import cpu
from keras_moe.ops import gather
from keras_moe.ops import grouped
from keras_moe.ops import logsumexp
from keras_moe.ops import reference
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from keras_moe.ops.selection import AUTOMATIC
from keras_moe.ops.selection import IMPLEMENTATIONS

EVERYWHERE = ("jax", "tensorflow", "torch")
DEVICES = ("cpu", "gpu", "tpu")
# "auto" streams soft plans whose array of weights (G,T,E,S), one of several
# that training would keep, takes more bytes than this on a device.
STREAMING_BYTES = 2**29
# On PyTorch's CPUs "auto" shares the exponential where that array takes at
# least this much.
SHARED_BYTES = 2**23

# Traits of a plan, or of its program, that some implementations cannot serve.
TRAITS = {
    "noise": "the router adds noise to its logits",
    "temperature": "temperatures divide the logits",
    "over_tokens": "combine is over tokens, not over slots",
    "discrete": "a discrete plan keeps the largest weights alone",
    "unbounded": "nothing bounds logits of vectors of any length",
    "float16": "float16 cannot hold the sums of exponentials",
    "sharded": "groups are spread over several devices",
    "compiled": "the program is compiled as a whole",
    "meta": "the arrays have shapes and no values",
    "transformed": "a transform of torch.func is active",
    "uneven": "the devices cannot have equal numbers of tokens",
    "other_layout": "weights are spread by another layout than expert_parallel",
    "processes": "experts are spread over processes",
    "quantised_experts": "its experts' quantisation has no sorted rows",
    "cloned_experts": "its experts are layers of their own (expert=…)",
}
# The weights are not two softmaxes of the same logits.
NOT_SOFTMAXES = frozenset({"temperature", "over_tokens", "discrete"})
# Nor can one exponential serve both of them.
NOT_SHARED = NOT_SOFTMAXES | {"noise", "unbounded", "float16"}
# JAX's and TensorFlow's programs transform everything that is here. Spread
# over devices, portable formulas need the fewest exchanges.
PORTABLE_ONLY = frozenset({"sharded", "compiled", "meta", "transformed"})


class Implementation(NamedTuple):
    """Row of the table: how to prepare a plan, which plans, and where.

    Args:
        prepare: `prepare(plan, dtype)`, where `dtype` is that of the tokens,
            returns an object with `dispatch(tokens)` and `combine(slots)`.
        plans: kinds of plans it serves.
        backends: where it runs.
        devices: kinds of devices it serves.
        obstacles: names in `TRAITS` that it cannot serve.
        limit: the largest bound of the logits that it can serve.
        auto_bytes: by backend, from how many bytes of one array of weights on
            "auto" takes it; 0 where none are given.
    """

    prepare: Callable
    plans: tuple
    backends: tuple
    devices: tuple = DEVICES
    obstacles: frozenset = frozenset()
    limit: float = math.inf
    auto_bytes: dict = {}

    def obstacle(self, facts) -> str:
        """Say why it cannot serve plans of these facts; empty if it can."""
        for trait, reason in TRAITS.items():
            if trait in self.obstacles and trait in facts.traits:
                return reason
        if facts.device not in self.devices:
            return (
                f"it is tuned for {' and '.join(self.devices).upper()}s and "
                f"the tokens are on a {facts.device.upper()}"
            )
        if self.limit == math.inf:
            return ""
        if facts.bound is None:
            return (
                "no number is known that bounds the logits "
                f"(SoftMoE(max_scale={self.limit:.0f}) gives one)"
            )
        if facts.bound > self.limit:
            return (
                f"its logits may reach {facts.bound:g}, and one exponential "
                f"serves up to {self.limit:.0f}"
            )
        return ""


IMPLEMENTATIONS |= {
    "reference": Implementation(
        reference.prepare, ("soft", "hard", "grouped"), EVERYWHERE
    ),
    "gather": Implementation(gather.prepare, ("hard",), EVERYWHERE),
    "grouped": Implementation(
        grouped.prepare,
        ("grouped",),
        EVERYWHERE,
        obstacles=frozenset(
            {
                "uneven",
                "other_layout",
                "processes",
                "quantised_experts",
                "cloned_experts",
            }
        ),
    ),
    "logsumexp": Implementation(
        logsumexp.prepare, ("soft",), EVERYWHERE, obstacles=NOT_SOFTMAXES
    ),
    "shared_exp": Implementation(
        shared_exp.prepare,
        ("soft",),
        EVERYWHERE,
        obstacles=NOT_SHARED,
        limit=shared_exp.LIMIT,
    ),
    "cpu": Implementation(
        cpu.prepare,
        ("soft",),
        EVERYWHERE,
        devices=("cpu",),
        obstacles=NOT_SHARED | PORTABLE_ONLY,
        auto_bytes={"torch": SHARED_BYTES},
    ),
    # PyTorch's fused attention has no transforms of torch.func.
    "streaming": Implementation(
        streaming.prepare,
        ("soft",),
        EVERYWHERE,
        obstacles=frozenset(
            {"noise", "over_tokens", "discrete", "transformed"}
        ),
        auto_bytes=dict.fromkeys(EVERYWHERE, STREAMING_BYTES + 1),
    ),
}

# What "auto" runs: the first that serves the plan and whose bytes are reached.
#
# Soft plans on CPUs, measured. The whole layer with "cpu" against the plain
# formulas, outputs and gradients: tests/benchmarks/results/soft_moe_layers-*,
# rows SoftMoE; its routing alone: soft_routing-*, rows cpu and shared_exp.
# Soft plans on GPUs and TPUs, compiled, not run: shared_exp, which needs a
# bound, and logsumexp take the least memory in training and on TPUs the fewest
# cycles: tests/benchmarks/results/soft_routing_compiled-jax-*, all rows.
# streaming is for memory alone, and goes by the bytes on one device.
#
# Hard plans on CPUs: gather takes .006 to .29 of the time of the one-hot
# products from T 196 to 4096, and .60 to 1.06 at T 16, on each backend, for
# outputs and gradients: tests/benchmarks/results/hard_plans-*.csv, all rows.
# On GPUs and TPUs it was not run; it is taken as it has no array (T x slots).
#
# Grouped plans: "grouped" does the work of top_k experts for each token, and
# "reference" that of all: tests/benchmarks/results/grouped-*.csv. On GPUs and
# TPUs it was not run.
AUTOMATIC |= {
    ("soft", "jax", "cpu"): ("streaming", "cpu", "shared_exp", "reference"),
    ("soft", "tensorflow", "cpu"): (
        "streaming",
        "cpu",
        "shared_exp",
        "reference",
    ),
    ("soft", "torch", "cpu"): ("streaming", "cpu", "reference"),
}
for _backend in EVERYWHERE:
    for _device in ("gpu", "tpu"):
        AUTOMATIC["soft", _backend, _device] = (
            "streaming",
            "shared_exp",
            "logsumexp",
            "reference",
        )
    for _device in DEVICES:
        AUTOMATIC["hard", _backend, _device] = ("gather",)
        AUTOMATIC["grouped", _backend, _device] = ("grouped", "reference")

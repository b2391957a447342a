"""The table of implementations, and the order in which "auto" takes them."""

from keras_moe.ops import cpu
from keras_moe.ops import gather
from keras_moe.ops import grouped
from keras_moe.ops import logsumexp
from keras_moe.ops import reference
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from keras_moe.ops.selection import AUTOMATIC
from keras_moe.ops.selection import DEVICES
from keras_moe.ops.selection import IMPLEMENTATIONS
from keras_moe.ops.selection import Implementation

EVERYWHERE = ("jax", "tensorflow", "torch")
# "auto" streams soft plans whose array of weights (G,T,E,S), one of several
# that training would keep, takes more bytes than this on a device.
STREAMING_BYTES = 2**29
# On PyTorch's CPUs "auto" shares the exponential where that array takes at
# least this much.
SHARED_BYTES = 2**23

# The weights are not two softmaxes of the same logits.
NOT_SOFTMAXES = frozenset({"temperature", "over_tokens", "discrete"})
# Nor can one exponential serve both of them.
NOT_SHARED = NOT_SOFTMAXES | {"noise", "unbounded", "float16"}
# JAX's and TensorFlow's programs transform everything that is here. Spread
# over devices, portable formulas need the fewest exchanges.
PORTABLE_ONLY = frozenset({"sharded", "compiled", "meta", "transformed"})

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
        # XLA compiles steps within a graph alone.
        auto_without=frozenset({"eager"}),
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

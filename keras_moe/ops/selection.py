"""Which implementation runs: the one table, and a pure choice from facts."""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras_moe.ops import cpu
from keras_moe.ops import devices
from keras_moe.ops import gather
from keras_moe.ops import grouped
from keras_moe.ops import logsumexp
from keras_moe.ops import reference
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from keras_moe.plans import GroupedPlan
from keras_moe.plans import SoftPlan

ENVIRONMENT = "KERAS_MOE_IMPLEMENTATION"
EVERYWHERE = ("jax", "tensorflow", "torch")
# "auto" streams soft plans whose array of weights (G,T,E,S), one of several
# that training would keep, takes more bytes than this on a device.
STREAMING_BYTES = 2**29
# On PyTorch's CPUs "auto" shares the exponential where that array takes at
# least this much.
SHARED_BYTES = 2**23


class Facts(NamedTuple):
    """What `select` may know of a plan: nothing that depends on values.

    Args:
        kind: `"soft"`, `"hard"` or `"grouped"`.
        device: `"cpu"`, `"gpu"` or `"tpu"`.
        bound: a number that no |logit| exceeds, `None` if none is known.
        not_softmaxes: why the weights are not two softmaxes of the same
            logits; empty if they are.
        not_shared: why no one exponential can serve both softmaxes, whatever
            the bound; empty if it can.
        not_streamed: why the plan cannot be streamed; empty if it can.
        portable: why only portable formulas may run; empty if others may.
        weight_bytes: of one array (G,T,E,S) of weights on a device, 0 if not
            known.
        not_grouped: why no rows sorted by expert can be made, or taken by the
            experts; empty if they can.
    """

    kind: str
    device: str = "cpu"
    bound: float | None = None
    not_softmaxes: str = ""
    not_shared: str = ""
    not_streamed: str = ""
    portable: str = ""
    weight_bytes: int = 0
    not_grouped: str = ""


class Implementation(NamedTuple):
    """How to prepare a plan, the plans it serves, and where it runs.

    `prepare(plan, dtype)`, where `dtype` is that of the tokens, returns an
    object with `dispatch(tokens)` and `combine(slots)`.
    """

    prepare: Callable
    plans: tuple
    backends: tuple
    # Whether "auto" takes it for plans of these facts on a backend.
    suits: Callable = lambda facts, backend: True
    # Why it cannot serve plans of these facts; empty if it can.
    obstacle: Callable = lambda facts: ""


IMPLEMENTATIONS = {
    "reference": Implementation(
        reference.prepare, ("soft", "hard", "grouped"), EVERYWHERE
    ),
    "gather": Implementation(gather.prepare, ("hard",), EVERYWHERE),
    "grouped": Implementation(
        grouped.prepare,
        ("grouped",),
        EVERYWHERE,
        obstacle=lambda facts: facts.not_grouped,
    ),
    "logsumexp": Implementation(
        logsumexp.prepare,
        ("soft",),
        EVERYWHERE,
        obstacle=lambda facts: facts.not_softmaxes,
    ),
    "shared_exp": Implementation(
        shared_exp.prepare,
        ("soft",),
        EVERYWHERE,
        obstacle=lambda facts: (
            facts.not_shared or shared_exp.beyond(facts.bound)
        ),
    ),
    "cpu": Implementation(
        cpu.prepare,
        ("soft",),
        cpu.BACKENDS,
        suits=lambda facts, backend: (
            backend == "jax" or facts.weight_bytes >= SHARED_BYTES
        ),
        obstacle=lambda facts: (
            facts.not_shared or facts.portable or cpu.elsewhere(facts.device)
        ),
    ),
    "streaming": Implementation(
        streaming.prepare,
        ("soft",),
        EVERYWHERE,
        suits=lambda facts, backend: facts.weight_bytes > STREAMING_BYTES,
        obstacle=lambda facts: facts.not_streamed,
    ),
}

# What "auto" runs: the first without an obstacle that suits the plan.
#
# Soft plans on CPUs, measured. The whole layer with "cpu" against the plain
# formulas, outputs and gradients: tests/benchmarks/results/soft_moe_layers-*,
# rows SoftMoE; its routing alone: soft_routing-*, rows cpu and shared_exp.
# TensorFlow has no "cpu": what was tuned there gained less than 1.15x.
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
AUTOMATIC = {
    ("soft", "jax", "cpu"): ("streaming", "cpu", "shared_exp", "reference"),
    ("soft", "tensorflow", "cpu"): ("streaming", "shared_exp", "reference"),
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
    for _device in devices.KINDS:
        AUTOMATIC["hard", _backend, _device] = ("gather",)
        AUTOMATIC["grouped", _backend, _device] = ("grouped", "reference")


def names(kind: str) -> tuple:
    """What `implementation=` may say for plans of `kind`."""
    serving = (n for n, i in IMPLEMENTATIONS.items() if kind in i.plans)
    return ("auto", *serving)


def facts(plan, dtype, slots_only: str = "") -> Facts:
    """What is known of a plan and of tokens of this dtype, statically.

    Args:
        plan: of any kind.
        dtype: of the tokens.
        slots_only: why experts take slots (G,E,S,D) and no rows sorted by
            expert; empty if they take both.
    """
    if isinstance(plan, GroupedPlan):
        return Facts(
            "grouped",
            devices.kind_of(plan.gate),
            not_grouped=slots_only or grouped.obstacle(),
        )
    if not isinstance(plan, SoftPlan):
        return Facts("hard", devices.kind_of(plan.gate))
    sizes = (*plan.tokens.shape[:2], *plan.slots.shape[1:])
    known = all(isinstance(size, int) for size in sizes)
    return Facts(
        "soft",
        devices.kind_of(plan.tokens),
        plan.bound,
        logsumexp.obstacle(plan),
        shared_exp.obstacle(plan, dtype),
        streaming.obstacle(plan),
        devices.only_portable(plan.tokens),
        4 * math.prod(sizes) // devices.shards() if known else 0,
    )


def select(
    facts: Facts,
    requested: str,
    backend: str,
    environment: str | None = None,
) -> str:
    """Name the implementation to run; a pure function of static facts.

    Args:
        facts: of the plan, from `facts()`.
        requested: the layer's `implementation`.
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
        environment: value of `KERAS_MOE_IMPLEMENTATION`. It stands in for
            `"auto"` only, in the layers whose plans it serves.

    Raises:
        ValueError: if what was asked for does not run on this backend, on this
            device or for this plan, or if `requested` or `environment` names
            nothing that exists.
    """
    kind, asked_by = facts.kind, "implementation"
    if requested == "auto" and environment not in (None, "", "auto"):
        _check_known(ENVIRONMENT, environment)
        if kind in IMPLEMENTATIONS[environment].plans:
            asked_by, requested = ENVIRONMENT, environment
    if requested != "auto":
        _check_known(asked_by, requested)
        _check_serves(asked_by, requested, facts, backend)
        return requested
    for name in AUTOMATIC[kind, backend, facts.device]:
        one = IMPLEMENTATIONS[name]
        if not one.obstacle(facts) and one.suits(facts, backend):
            return name
    raise AssertionError(f"nothing serves {facts}")


def _check_known(asked_by, name):
    if name not in IMPLEMENTATIONS:
        known = ", ".join(repr(n) for n in ("auto", *IMPLEMENTATIONS))
        raise ValueError(
            f"{asked_by} must be one of {known}; received {name!r}."
        )


def _check_serves(asked_by, name, facts, backend):
    kind, (_, plans, backends, _, obstacle) = facts.kind, IMPLEMENTATIONS[name]
    if kind not in plans or backend not in backends:
        reason = (
            f"serves {' and '.join(plans)} plans on {', '.join(backends)}; "
            f"for a {kind} plan on {backend}"
        )
    elif obstacle(facts):
        reason = f"cannot serve this plan, as {obstacle(facts)};"
    else:
        return
    others = ", ".join(
        repr(n)
        for n in names(kind)
        if n == "auto"
        or backend in IMPLEMENTATIONS[n].backends
        and not IMPLEMENTATIONS[n].obstacle(facts)
    )
    raise ValueError(f"{asked_by}={name!r} {reason} choose one of {others}.")


def make_dispatcher(plan, dtype, name: str):
    """Prepare a plan for the implementation of this name.

    Args:
        plan: a `SoftPlan`, a `HardPlan` or a `GroupedPlan`.
        dtype: of the tokens that will be dispatched.
        name: in `IMPLEMENTATIONS`, as `select` names it.

    Returns:
        An object with `dispatch(tokens)`, (G,T,D) -> (G,E,S,D),
        `combine(slots)`, (G,E,S,D) -> (G,T,D), and for the experts between
        `product(rows, kernels)`, (E,N,D) · (E,D,F) -> (E,N,F), and
        `shift(rows, biases)`. That of `"grouped"` has rows (P,D), sorted by
        expert, in the place of slots.
    """
    return IMPLEMENTATIONS[name].prepare(plan, dtype)

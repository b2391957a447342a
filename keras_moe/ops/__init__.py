"""The backend boundary: dispatch and combine, by named implementation.

    tokens (G,T,D), plan -> slots (G,E,S,D) -> experts -> tokens (G,T,D)

`IMPLEMENTATIONS` is the one table of what exists. An implementation prepares a
plan, once, and what it returns dispatches and combines, so that both steps and
their gradients share what was prepared. A named implementation runs or raises;
nothing falls back silently.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras_moe import routing
from keras_moe.ops import gather
from keras_moe.ops import reference
from keras_moe.ops import shared_exp
from keras_moe.ops import streaming

ENVIRONMENT = "KERAS_MOE_IMPLEMENTATION"
EVERYWHERE = ("jax", "tensorflow", "torch")
# "auto" streams soft plans whose array of weights (G,T,E,S), one of several
# that training would keep, takes more bytes than this.
STREAMING_BYTES = 2**29
# "auto" shares the exponential where that array takes at least this much; the
# size may be unknown where it is always worth it.
SHARED_EXP_BYTES = {"jax": 0, "tensorflow": 0, "torch": 2**23}


class Facts(NamedTuple):
    """What `select` may know of a plan: nothing that depends on values.

    Args:
        kind: `"soft"` or `"hard"`.
        one_exponential: whether one exponential may serve both softmaxes.
        not_streamable: why the plan cannot be streamed; empty if it can.
        weight_bytes: of one array (G,T,E,S) of weights, 0 if not known.
    """

    kind: str
    one_exponential: bool = False
    not_streamable: str = ""
    weight_bytes: int = 0


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
        reference.prepare, ("soft", "hard"), EVERYWHERE
    ),
    "gather": Implementation(gather.prepare, ("hard",), EVERYWHERE),
    "shared_exp": Implementation(
        shared_exp.prepare,
        ("soft",),
        EVERYWHERE,
        lambda facts, backend: (
            facts.one_exponential
            and facts.weight_bytes >= SHARED_EXP_BYTES[backend]
        ),
    ),
    "streaming": Implementation(
        streaming.prepare,
        ("soft",),
        EVERYWHERE,
        lambda facts, backend: (
            not facts.not_streamable and facts.weight_bytes > STREAMING_BYTES
        ),
        lambda facts: facts.not_streamable,
    ),
}

# What "auto" runs: the first that suits the plan. Measured on CPUs.
#
# Soft plans: shared_exp takes .60 to .90 of the time of the plain formulas on
# JAX, outputs and gradients, at every size measured. On TensorFlow it takes .81
# to .93 for gradients, and for outputs alone .89 where weights take 16 and
# 64 MiB, 1.03 and 1.07 where they take 0.6 and 2.4 MiB. On PyTorch it takes .62
# to .76 and .92 to 1.13 there:
# tests/benchmarks/results/soft_routing-*.csv, all rows of 5 turns.
# Compiled, not run: on TPUs the compiler's estimate for shared_exp is .50 to
# .76 of that for the plain formulas; on GPUs and TPUs streaming has no array
# of weights: tests/benchmarks/results/soft_routing_compiled-*.csv, all rows.
# streaming is for memory, and mostly slower (.72 to 1.74): it is taken by the
# bytes alone; tests/test_soft_routing.py shows that it holds no array of
# weights.
#
# Hard plans: gather takes .006 to .29 of the time of the one-hot products from
# T 196 to 4096, and .60 to 1.06 at T 16, on each backend, for outputs and
# gradients: tests/benchmarks/results/hard_plans-*.csv, all rows.
AUTOMATIC = {
    ("soft", "jax"): ("streaming", "shared_exp", "reference"),
    ("soft", "tensorflow"): ("streaming", "shared_exp", "reference"),
    ("soft", "torch"): ("streaming", "shared_exp", "reference"),
    ("hard", "jax"): ("gather",),
    ("hard", "tensorflow"): ("gather",),
    ("hard", "torch"): ("gather",),
}


def names(kind: str) -> tuple:
    """What `implementation=` may say for plans of `kind`."""
    serving = (n for n, i in IMPLEMENTATIONS.items() if kind in i.plans)
    return ("auto", *serving)


def facts(plan, dtype) -> Facts:
    """What is known of a plan and of tokens of this dtype, statically."""
    if not isinstance(plan, routing.SoftPlan):
        return Facts("hard")
    sizes = (*plan.tokens.shape[:2], *plan.slots.shape[1:])
    known = all(isinstance(size, int) for size in sizes)
    return Facts(
        "soft",
        shared_exp.serves(plan, dtype),
        streaming.obstacle(plan),
        4 * math.prod(sizes) if known else 0,
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
        ValueError: if what was asked for does not run on this backend, or if
            `requested` or `environment` names nothing that exists.
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
    return next(
        name
        for name in AUTOMATIC[kind, backend]
        if IMPLEMENTATIONS[name].suits(facts, backend)
    )


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


def prepare(plan, dtype, implementation: str):
    """What dispatches and combines by this plan, as the implementation does.

    Args:
        plan: a `SoftPlan` or a `HardPlan`.
        dtype: of the tokens that will be dispatched.
        implementation: a name in `IMPLEMENTATIONS`.

    Returns:
        An object with `dispatch(tokens)`, (G,T,D) -> (G,E,S,D), and
        `combine(slots)`, (G,E,S,D) -> (G,T,D).
    """
    return IMPLEMENTATIONS[implementation].prepare(plan, dtype)

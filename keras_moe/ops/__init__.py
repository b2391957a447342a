"""The backend boundary: dispatch and combine, by named implementation.

    tokens (G,T,D), plan -> slots (G,E,S,D) -> experts -> tokens (G,T,D)

`IMPLEMENTATIONS` is the one table of what exists. A named implementation runs
or raises; nothing falls back silently.
"""

from typing import NamedTuple

from keras_moe import routing
from keras_moe.ops import gather
from keras_moe.ops import reference

ENVIRONMENT = "KERAS_MOE_IMPLEMENTATION"
EVERYWHERE = ("jax", "tensorflow", "torch")


class Implementation(NamedTuple):
    """A pair of functions, the plans it serves and the backends it runs on."""

    room: object
    plans: tuple
    backends: tuple


IMPLEMENTATIONS = {
    "reference": Implementation(reference, ("soft", "hard"), EVERYWHERE),
    "gather": Implementation(gather, ("hard",), EVERYWHERE),
}

# What "auto" runs. Hard plans: gather takes .006 to 1.006 of the time of the
# one-hot products at every size measured (T 16 to 4096), on each backend, for
# outputs and gradients: tests/benchmarks/results/hard_plans-*.csv, all rows.
AUTOMATIC = {"soft": "reference", "hard": "gather"}


def names(kind: str) -> tuple:
    """What `implementation=` may say for plans of `kind`."""
    serving = (n for n, i in IMPLEMENTATIONS.items() if kind in i.plans)
    return ("auto", *serving)


def select(
    kind: str,
    requested: str,
    backend: str,
    environment: str | None = None,
) -> str:
    """Name the implementation to run; a pure function of static facts.

    Args:
        kind: `"soft"` or `"hard"`.
        requested: the layer's `implementation`.
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
        environment: value of `KERAS_MOE_IMPLEMENTATION`. It stands in for
            `"auto"` only, in the layers whose plans it serves.

    Raises:
        ValueError: if what was asked for does not run on this backend, or if
            `requested` or `environment` names nothing that exists.
    """
    asked_by = "implementation"
    if requested == "auto" and environment not in (None, "", "auto"):
        _check_known(ENVIRONMENT, environment)
        if kind in IMPLEMENTATIONS[environment].plans:
            asked_by, requested = ENVIRONMENT, environment
    if requested != "auto":
        _check_known(asked_by, requested)
        _, plans, backends = IMPLEMENTATIONS[requested]
        if kind not in plans or backend not in backends:
            others = ", ".join(
                repr(n)
                for n in names(kind)
                if n == "auto" or backend in IMPLEMENTATIONS[n].backends
            )
            raise ValueError(
                f"{asked_by}={requested!r} serves {' and '.join(plans)} plans "
                f"on {', '.join(backends)}; for a {kind} plan on {backend} "
                f"choose one of {others}."
            )
        return requested
    return AUTOMATIC[kind]


def _check_known(asked_by, name):
    if name not in IMPLEMENTATIONS:
        known = ", ".join(repr(n) for n in ("auto", *IMPLEMENTATIONS))
        raise ValueError(
            f"{asked_by} must be one of {known}; received {name!r}."
        )


def plan_kind(plan) -> str:
    """`"soft"` or `"hard"`."""
    return "soft" if isinstance(plan, routing.SoftPlan) else "hard"


def dispatch(tokens, plan, implementation: str):
    """Tokens (G,T,D) -> slots (G,E,S,D), by the implementation named."""
    return IMPLEMENTATIONS[implementation].room.dispatch(tokens, plan)


def combine(slots, plan, implementation: str):
    """Slots (G,E,S,D) -> tokens (G,T,D), by the implementation named."""
    return IMPLEMENTATIONS[implementation].room.combine(slots, plan)

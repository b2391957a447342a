"""Select the implementation that runs, by static facts alone."""

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_moe import distribution
from keras_moe.ops import requests
from keras_moe.plans import GroupedPlan
from keras_moe.plans import SoftPlan

ENVIRONMENT = "KERAS_MOE_IMPLEMENTATION"
DEVICES = ("cpu", "gpu", "tpu")
# Devices by the names of platforms. One without a kind of its own, such as
# "rocm", is like a GPU.
KINDS = {"cpu": "cpu", "meta": "cpu", "tpu": "tpu", "xla": "tpu"}
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
    "eager": "TensorFlow runs step by step, without a graph",
    "transformed": "a transform of torch.func is active",
    "uneven": "the devices cannot have equal numbers of tokens",
    "other_layout": "weights are spread by another layout than expert_parallel",
    "quantised_experts": "its experts' quantisation has no sorted rows",
    "cloned_experts": "its experts are layers of their own (expert=…)",
}
# Filled by implementations.py, whose modules import this one.
IMPLEMENTATIONS = {}
AUTOMATIC = {}
_BACKEND = keras.backend.backend()


class Facts(NamedTuple):
    """Static facts of a plan, none of which depends on values.

    Args:
        kind: `"soft"`, `"hard"` or `"grouped"`.
        device: `"cpu"`, `"gpu"` or `"tpu"`.
        bound: a number that no |logit| exceeds, `None` if none is known.
        traits: names in `TRAITS`, those that hold.
        weight_bytes: size of one array (G,T,E,S) of weights on a device, 0 if
            not known.
    """

    kind: str
    device: str = "cpu"
    bound: float | None = None
    traits: frozenset = frozenset()
    weight_bytes: int = 0


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
        auto_without: names in `TRAITS` with which "auto" leaves it.
    """

    prepare: Callable
    plans: tuple
    backends: tuple
    devices: tuple = DEVICES
    obstacles: frozenset = frozenset()
    limit: float = math.inf
    auto_bytes: dict = {}
    auto_without: frozenset = frozenset()

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


# === Static facts ===


def facts(plan, dtype, experts=()) -> Facts:
    """Collect the static facts of a plan and of tokens of this dtype.

    Args:
        plan: a plan of any kind.
        dtype: dtype of the tokens.
        experts: names in `TRAITS` that hold of the experts.
    """
    if isinstance(plan, GroupedPlan):
        traits = frozenset(experts) | _grouped_traits(plan)
        return Facts("grouped", kind_of(plan.gate), None, traits)
    if not isinstance(plan, SoftPlan):
        return Facts("hard", kind_of(plan.combine_weights))
    tokens, merge = plan.tokens, plan.merge_temperature
    groups, length, _ = tokens.shape
    weight_bytes = 4
    for size in (groups, length, *plan.slots.shape[1:]):
        weight_bytes *= size if isinstance(size, int) else 0
    divided = not isinstance(merge, (int, float)) or merge != 1
    count = shards()
    traits = program_traits(tokens)
    for trait, holds in (
        ("sharded", count > 1),
        ("noise", plan.noise is not None),
        ("temperature", divided or plan.emit_temperature is not None),
        ("over_tokens", plan.combine_over != "slots"),
        ("discrete", plan.discrete),
        ("unbounded", plan.bound is None and plan.scale is None),
        ("float16", keras.backend.standardize_dtype(dtype) == "float16"),
    ):
        if holds:
            traits.add(trait)
    return Facts(
        "soft",
        kind_of(tokens),
        plan.bound,
        frozenset(traits),
        weight_bytes // count,
    )


def _grouped_traits(plan) -> set:
    """Those of a plan whose pairs are spread over several devices."""
    traits = set()
    if keras.distribution.distribution() is None:
        return traits
    groups, length, _ = plan.gate.shape
    if groups * length % shards():
        traits.add("uneven")
    if not distribution.knows_layout():
        traits.add("other_layout")
    return traits


def kind_of(array) -> str:
    """Name the kind of device of an array: `"cpu"`, `"gpu"` or `"tpu"`.

    A JAX program under compilation does not know. Then it is the device that
    JAX compiles for by default.
    """
    if _BACKEND == "jax":
        import jax

        traced = isinstance(array, jax.core.Tracer)
        if isinstance(array, jax.Array) and not traced:
            return KINDS.get(next(iter(array.devices())).platform, "gpu")
        default = jax.config.jax_default_device or jax.devices()[0]
        return KINDS.get(getattr(default, "platform", default), "gpu")
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        named = getattr(array, "device", "")  # empty in most graphs
        if named:
            device = tf.DeviceSpec.from_string(named).device_type.lower()
            return KINDS.get(device, "gpu")
        types = {d.device_type for d in tf.config.list_logical_devices()}
        return "tpu" if "TPU" in types else "gpu" if "GPU" in types else "cpu"
    import torch

    return KINDS.get(torch.as_tensor(array).device.type, "gpu")


def program_traits(array) -> set:
    """Name the traits of the program that computes an array."""
    traits = set()
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        if tf.executing_eagerly():
            traits.add("eager")
    if _BACKEND != "torch":
        return traits
    import torch

    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        traits.add("compiled")
    if torch.as_tensor(array).is_meta:
        traits.add("meta")
    if (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        traits.add("transformed")
    return traits


def only_portable(array) -> bool:
    """Tell whether the program takes portable formulas alone."""
    return shards() > 1 or bool(program_traits(array))


def shards() -> int:
    """Count the devices that the groups of a batch are spread over."""
    if keras.distribution.distribution() is None:
        return 1
    return distribution.batch_shards()


# === The choice ===


def names(kind: str) -> tuple:
    """List the values of `implementation=` for plans of `kind`."""
    serving = (n for n, i in IMPLEMENTATIONS.items() if kind in i.plans)
    return ("auto", *serving)


def select(
    facts: Facts,
    requested: str,
    backend: str,
    environment: str | None = None,
) -> str:
    """Name the implementation to run; a pure function of static facts.

    Args:
        facts: facts of the plan, from `facts()`.
        requested: the layer's `implementation`.
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
        environment: value of `KERAS_MOE_IMPLEMENTATION`. It stands in for
            `"auto"` only, in the layers whose plans it serves.

    Raises:
        ValueError: if the requested name does not run on this backend, on this
            device or for this plan, or if `requested` or `environment` names
            nothing that exists.
    """
    kind, source = facts.kind, "implementation"
    if requested == "auto" and environment not in (None, "", "auto"):
        requests.check_known(IMPLEMENTATIONS, ENVIRONMENT, environment)
        if kind in IMPLEMENTATIONS[environment].plans:
            source, requested = ENVIRONMENT, environment
    if requested != "auto":
        requests.check(IMPLEMENTATIONS, source, requested, facts, backend)
        return requested
    *candidates, last = AUTOMATIC[kind, backend, facts.device]
    for name in candidates:
        one = IMPLEMENTATIONS[name]
        enough = facts.weight_bytes >= one.auto_bytes.get(backend, 0)
        allowed = enough and one.auto_without.isdisjoint(facts.traits)
        if allowed and not one.obstacle(facts):
            return name
    return last  # which serves whatever the others leave


def make_dispatcher(plan, dtype, name: str):
    """Prepare a plan for the implementation of this name.

    Args:
        plan: a `SoftPlan`, a `HardPlan` or a `GroupedPlan`.
        dtype: dtype of the tokens that will be dispatched.
        name: in `IMPLEMENTATIONS`, as `select` names it.

    Returns:
        An object with `dispatch(tokens)`, (G,T,D) -> (G,E,S,D),
        `combine(slots)`, (G,E,S,D) -> (G,T,D), and for the experts between
        `product(rows, kernels)`, (E,N,D) · (E,D,F) -> (E,N,F), and
        `shift(rows, biases)`, or `None` where they are the plain ones. That of
        `"grouped"` has rows (P,D), sorted by expert, in the place of slots.
    """
    return IMPLEMENTATIONS[name].prepare(plan, dtype)


def choose_dispatcher(plan, dtype, requested: str, experts=()):
    """Select the implementation for a plan, and prepare the plan for it.

    Args:
        plan: a `SoftPlan`, a `HardPlan` or a `GroupedPlan`.
        dtype: dtype of the tokens that will be dispatched.
        requested: `"auto"` or a name; `KERAS_MOE_IMPLEMENTATION` stands in for
            `"auto"`.
        experts: names in `TRAITS` that hold of the experts.

    Returns:
        What `make_dispatcher` returns.

    Raises:
        ValueError: as `select` does.
    """
    name = select(
        facts(plan, dtype, experts),
        requested,
        _BACKEND,
        os.environ.get(ENVIRONMENT),
    )
    return IMPLEMENTATIONS[name].prepare(plan, dtype)

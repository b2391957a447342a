"""Plans as numpy arrays, for `diagnostics` and `visualize`.

This is the one place that they ask for the kind of a plan: a further kind is a
further row of `_KINDS`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_moe.plans import GroupedPlan
from keras_moe.plans import HardPlan
from keras_moe.plans import SoftPlan


@dataclasses.dataclass(frozen=True)
class Kind:
    """Description of a kind of plan.

    Args:
        hard: whether slots hold whole tokens, which may be dropped.
        of_groups: names of the arrays whose first axis is G.
        of_layer: names of the arrays that belong to the layer, which training
            may change in place.
        shares: function of a plan, see `shares`.
    """

    hard: bool
    of_groups: tuple[str, ...]
    of_layer: tuple[str, ...]
    shares: Callable


def _soft_shares(plan):
    dispatch, combine = weights(plan)
    return dispatch, combine.sum(axis=-1)


def _hard_shares(plan):
    token = ops.convert_to_numpy(plan.token_index)
    gate = ops.convert_to_numpy(plan.combine_weights)
    groups, experts, _ = token.shape
    slots = np.zeros((groups, int(plan.num_tokens), experts), "float32")
    gates = np.zeros_like(slots)
    group, expert, slot = np.nonzero(gate)
    where = (group, token[group, expert, slot], expert)
    np.add.at(slots, where, 1.0)
    np.add.at(gates, where, gate[group, expert, slot])
    return slots[..., None], gates


def _grouped_shares(plan):
    chosen = ops.convert_to_numpy(plan.chosen())
    return chosen[..., None], ops.convert_to_numpy(plan.gates())


_KINDS = {
    SoftPlan: Kind(
        hard=False,
        of_groups=("tokens", "noise", "mask"),
        of_layer=("slots", "merge_temperature", "emit_temperature"),
        shares=_soft_shares,
    ),
    HardPlan: Kind(
        hard=True,
        of_groups=("token_index", "combine_weights", "mask"),
        of_layer=(),
        shares=_hard_shares,
    ),
    GroupedPlan: Kind(
        hard=True,
        of_groups=("expert", "gate", "mask"),
        of_layer=(),
        shares=_grouped_shares,
    ),
}


def kind(plan) -> Kind:
    """Find the kind of a plan, or raise an error that names `plan`."""
    for cls, description in _KINDS.items():
        if isinstance(plan, cls):
            return description
    received = f"received {type(plan).__name__}"
    if isinstance(plan, dict):
        received += "; take one of its plans, plans[path]"
    raise ValueError(
        "plan must be a SoftPlan, a HardPlan or a GroupedPlan, as capture() "
        f"yields; {received}."
    )


def weights(plan):
    """Dispatch and combine of a plan as numpy arrays, each (G,T,E,S)."""
    kind(plan)
    return [ops.convert_to_numpy(w) for w in plan.weights()]


def shares(plan):
    """Compute what is read of each token, and what each token receives.

    Returns:
        `read`, (G,T,E,C): how much of a token each reader of an expert reads;
        the readers are slots (soft) or the expert itself (hard, C = 1, the
        number of its slots with that token). `received`, (G,T,E): the weight
        of each expert in what the token gets.
    """
    return kind(plan).shares(plan)


def seen(plan, shape):
    """Tell which tokens are not masked, Boolean of shape (G,T)."""
    if plan.mask is None:
        return np.ones(shape, "bool")
    return ops.convert_to_numpy(plan.mask)


def group_arrays(plan) -> dict:
    """Name the arrays of a plan whose first axis is G; some are `None`."""
    return {name: getattr(plan, name) for name in kind(plan).of_groups}


def snapshot(plan):
    """Copy the plan, safe from training, which may change weights in place."""
    copies = {}
    for name in kind(plan).of_layer:
        value = getattr(plan, name)
        if not isinstance(value, (int, float, type(None))):
            copies[name] = ops.copy(value)
    return dataclasses.replace(plan, **copies)


def first_groups(plan, number: int):
    """Cut the plan down to its first `number` groups."""
    arrays = group_arrays(plan).items()
    rows = {name: None if a is None else a[:number] for name, a in arrays}
    return dataclasses.replace(plan, **rows)


def unit_columns(read):
    """Each column of (G,T,C) at length one, and (G,C) which read anything.

    A column of zeros has no direction, so no cosine with another: it counts in
    no average.
    """
    length = np.linalg.norm(read, axis=1)  # (G,C)
    reads = length != 0  # that of NaN counts, so that NaN is seen
    return read / np.where(reads, length, 1.0)[:, None], reads

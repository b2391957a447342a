"""Whole layers as functions of arrays, one for each implementation."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import ops as moe_ops
from tests.accelerator.items import kinds
from tests.accelerator.items import names
from tests.accelerator.items import serves
from tests.accelerator.sizes import normal
from tests.benchmarks import timing

TOP_K = 2


class Kind(NamedTuple):
    """A layer by its size, and what it multiplies.

    `slots` is the rows of all experts for each token, `routed` how often
    (tokens x slots x features) is multiplied forward.
    """

    make: Callable  # (tokens, experts, options) -> layer
    slots: int
    routed: int


def _soft(tokens, experts, **options):
    return layers.SoftMoE(experts, tokens // experts, **options)


def _choice(tokens, experts, **options):
    return layers.ExpertChoiceMoE(experts, 1.0, **options)


def _token(factor, tokens, experts, **options):
    return layers.TokenChoiceMoE(
        experts, TOP_K, capacity_factor=factor, **options
    )


LAYERS = {
    "SoftMoE": Kind(_soft, 1, 3),
    "SoftMoE(max_scale=40)": Kind(
        functools.partial(_soft, max_scale=40.0), 1, 3
    ),
    "ExpertChoiceMoE": Kind(_choice, 1, 0),
    "TokenChoiceMoE": Kind(functools.partial(_token, 1.0), TOP_K, 0),
}
# Token choice that drops nothing has a plan of a kind of its own.
if set(kinds()) - {"soft", "hard"}:
    LAYERS["TokenChoiceMoE(capacity_factor=None)"] = Kind(
        functools.partial(_token, None), TOP_K, 0
    )


def serving(label, dtype) -> list:
    """The implementations that serve the plans of this layer."""
    layer = LAYERS[label].make(8, 4, intermediate_dim=8, dtype=policy(dtype))
    with diagnostics.capture() as plans:
        layer(normal((1, 8, 8), dtype))
    (plan,) = plans.values()
    kind = moe_ops.facts(plan, dtype).kind
    return [name for name in names(kind) if serves(name, plan, dtype)]


def policy(dtype):
    return dtype if dtype == "float32" else f"mixed_{dtype}"


def build(label, name, groups, tokens, features, experts, hidden, dtype):
    """The layer as a function of tokens and weights, and such arrays."""
    layer = LAYERS[label].make(
        tokens,
        experts,
        intermediate_dim=hidden,
        dtype=policy(dtype),
        implementation=name,
    )
    function, (given, *weights) = timing.layer_of_arrays(
        layer, (groups, tokens, features)
    )
    return function, [ops.cast(given, dtype), *weights]


def multiplications(label, groups, tokens, features, experts, hidden):
    """Of its experts and, of soft plans, of dispatch and combine, forward."""
    _, slots, routed = LAYERS[label]
    of_experts = 2 * slots * tokens * features * hidden
    return groups * (of_experts + routed * tokens * tokens * features)


def needed(groups, tokens, features, experts, hidden):
    """Bytes of a training step with the plain formulas, from above."""
    weights = 2 * experts * features * hidden * 16
    rows = groups * TOP_K * tokens
    return weights + 24 * rows * (hidden + features) + 32 * rows * tokens

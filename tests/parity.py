"""Hold one implementation of dispatch and combine against the reference.

A case is a plan's arrays and how to make the plan of them, so that outputs and
all gradients can be compared, those of the plan's own weights too.
"""

import functools
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_moe import routing
from keras_moe.layers.experts import by_expert
from keras_moe.ops import reference
from keras_moe.ops.experts import experts_mlp
from tests import support


class Case(NamedTuple):
    """`plan(*weights)` is the plan, of float arrays that have gradients."""

    name: str
    kind: str
    tokens: Any  # (G,T,D)
    slots: Any  # (G,E,S,D), what the experts are said to have answered, or
    # of grouped plans (E,D,D), what the experts multiply by
    weights: tuple
    plan: Any
    dtype: str = "float32"  # that tokens and slots come in


def assert_same(prepare, case, rtol=2e-5, atol=1e-5):
    """Raise `AssertionError` unless `prepare` does as the reference's does.

    Compares what dispatch and combine return, and the gradients with respect
    to tokens, slots and the plan's weights. In half precision, with the
    reference in single precision.
    """
    expected = _expected(case.kind, case.name)
    for what, value in _outcome(prepare, case).items():
        largest = max(np.abs(expected[what]).max(), 1.0)
        np.testing.assert_allclose(
            value,
            expected[what],
            rtol=rtol,
            atol=atol + ROUNDING[case.dtype] * largest,
            err_msg=f"{case.kind} case {case.name}: {what}",
        )


# Of the largest value. A logit of 100 is known to 1e-5 in single precision.
ROUNDING = {"float32": 2e-5, "bfloat16": 0.05, "float16": 0.004}


@functools.cache
def _expected(kind, name):
    exact = case(kind, name)._replace(dtype="float32")
    return _outcome(reference.prepare, exact)


def _outcome(prepare, case):
    """Both steps at once, for one compilation instead of two."""
    rng = np.random.default_rng(99)
    for_slots = _normal(rng, *case.slots.shape)
    for_tokens = _normal(rng, *case.tokens.shape)

    def weighed(tokens, slots, *weights):
        tokens, slots = (ops.cast(x, case.dtype) for x in (tokens, slots))
        prepared = prepare(case.plan(*weights), tokens.dtype)
        mixed, outputs = STEPS[case.kind](prepared, tokens, slots)
        assert mixed.dtype == tokens.dtype and outputs.dtype == slots.dtype
        # numpy cannot hold bfloat16
        mixed, outputs = (ops.cast(x, "float32") for x in (mixed, outputs))
        value = ops.sum(mixed * ops.convert_to_tensor(for_slots))
        value += ops.sum(outputs * ops.convert_to_tensor(for_tokens))
        return value, (mixed, outputs)

    (_, (mixed, outputs)), grads = support.value_and_grads(
        weighed, case.tokens, case.slots, *case.weights
    )
    assert mixed.shape == case.slots.shape, mixed.shape
    assert outputs.shape == case.tokens.shape, outputs.shape
    outcome = {"dispatch": mixed, "combine": outputs}
    outcome["gradient of tokens"], outcome["gradient of slots"] = grads[:2]
    for i, grad in enumerate(grads[2:]):
        outcome[f"gradient of plan weight {i}"] = grad
    return outcome


def _apart(prepared, tokens, slots):
    """Slots are what dispatch makes, whatever the implementation."""
    return prepared.dispatch(tokens), prepared.combine(slots)


def _through(prepared, tokens, kernels):
    """Rows are compared by what becomes of them, twice through the experts."""
    rows, restore = by_expert(prepared.dispatch(tokens))
    weights = [(kernels, kernels[:, :1])] * 2
    rows = experts_mlp(rows, weights, ops.tanh, steps=prepared)
    slots = restore(rows)
    # In the shape of the kernels, what each of them is worth.
    return kernels, prepared.combine(slots)


STEPS = {"hard": _apart, "soft": _apart, "grouped": _through}


def _normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


# Cases ------------------------------------------------------------------------


def hard_case(name, shape, empty=0.3, mask=None, repeat=False):
    """Random slots. shape: (G,T,E,S,D); `empty` is the share of empty ones."""
    groups, length, experts, capacity, features = shape
    rng = np.random.default_rng(0)
    token = np.zeros((groups, experts, capacity), "int32")
    gate = rng.uniform(0.1, 1.0, token.shape).astype("float32")
    for g in range(groups):
        for e in range(experts):
            order = rng.permutation(length)
            token[g, e] = np.resize(order, capacity)
            gate[g, e, length:] = 0.0  # slots beyond the tokens are empty
    gate[rng.random(gate.shape) < empty] = 0.0
    if empty:
        gate[0, 0, 0] = 0.0
    if repeat:
        token[:] = length - 1
    if mask is not None:
        sits = np.take_along_axis(
            mask, token.reshape(groups, -1), axis=1
        ).reshape(token.shape)
        gate[~sits] = 0.0

    def plan(gate):
        # As routers do: nothing flows back from an empty slot.
        gate = ops.where(gate != 0, gate, 0.0)
        return routing.HardPlan(
            ops.convert_to_tensor(token), gate, length, mask
        )

    return Case(
        name,
        "hard",
        _normal(rng, groups, length, features),
        _normal(rng, groups, experts, capacity, features),
        (gate,),
        plan,
    )


def grouped_case(name, shape, mask=None, dtype="float32"):
    """Random experts. shape: (G,T,E,k,D)."""
    groups, length, experts, choices, features = shape
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(groups, length, experts))
    expert = np.argsort(scores, axis=-1)[..., :choices].astype("int32")
    gate = rng.uniform(0.1, 1.0, expert.shape).astype("float32")
    if mask is not None:
        expert[~mask] = experts

    def plan(gate):
        if mask is not None:
            seen = ops.convert_to_tensor(mask)
            gate = ops.where(seen[:, :, None], gate, 0.0)
        return routing.GroupedPlan(
            ops.convert_to_tensor(expert), gate, experts, mask
        )

    return Case(
        name,
        "grouped",
        _normal(rng, groups, length, features),
        _normal(rng, experts, features, features),
        (gate,),
        plan,
        dtype,
    )


def soft_case(name, shape, mask=None, noise=False, learned=False, **options):
    """Random logits. shape: (G,T,E,S,D); options are those of `SoftPlan`.

    `learned` gives each expert a temperature, one to merge and one to emit.
    """
    groups, length, experts, capacity, features = shape
    rng = np.random.default_rng(0)
    tokens = _normal(rng, groups, length, features)
    weights = [
        _normal(rng, groups, length, features),
        _normal(rng, features, experts, capacity),
    ]
    if noise:
        weights.append(_normal(rng, groups, length, experts, capacity))
    if learned:
        for _ in range(2):
            weights.append(rng.uniform(0.5, 2, experts).astype("float32"))

    def plan(tokens, slots, *more):
        more = list(more)
        given = dict(options)
        if noise:
            given["noise"] = more.pop(0)
        if learned:
            given["merge_temperature"], given["emit_temperature"] = more
        if mask is not None:
            given["mask"] = ops.convert_to_tensor(mask)
        return routing.SoftPlan(tokens, slots, **given)

    return Case(
        name,
        "soft",
        tokens,
        _normal(rng, groups, experts, capacity, features),
        tuple(weights),
        plan,
    )


def unit_case(
    name,
    shape,
    scale=None,
    mask=None,
    noise=False,
    zeros=(),
    dtype="float32",
    max_scale=None,
):
    """Soft MoE's logits: of unit vectors, times `scale`.

    The tokens (g, t) in `zeros` are zero vectors; t `None` is all of g.
    """
    plain = soft_case(name, shape, mask=mask, noise=noise)
    tokens, slots, *more = plain.weights
    tokens[~_mask(*shape[:2], zeros)] = 0.0
    weights = [tokens, slots, *more]
    if scale is not None:
        weights.append(np.float32(scale))

    def plan(tokens, slots, *more):
        more = list(more)
        return routing.soft_moe(
            tokens,
            slots,
            noise=more.pop(0) if noise else None,
            scale=more.pop(0) if scale is not None else None,
            max_scale=max_scale,
            mask=None if mask is None else ops.convert_to_tensor(mask),
        )

    return plain._replace(weights=tuple(weights), plan=plan, dtype=dtype)


def _mask(groups, length, gone):
    """All `True` but the places (g, t) in `gone`; t `None` is all of g."""
    mask = np.ones((groups, length), bool)
    for g, t in gone:
        mask[g, slice(None) if t is None else t] = False
    return mask


CASES = [
    hard_case("ragged", (2, 7, 3, 2, 5)),
    hard_case("all slots taken", (1, 13, 2, 5, 3), empty=0.0),
    hard_case("all slots empty", (2, 5, 2, 2, 3), empty=1.0),
    hard_case("more slots than tokens", (2, 3, 2, 5, 1)),
    hard_case("one token, one slot", (3, 1, 2, 1, 4)),
    hard_case("one token everywhere", (2, 6, 3, 2, 3), 0.2, repeat=True),
    hard_case(
        "masked", (3, 9, 2, 4, 3), mask=_mask(3, 9, [(0, 4), (0, 0), (1, None)])
    ),
    grouped_case("ragged", (2, 7, 4, 2, 5)),
    grouped_case("one token", (1, 1, 9, 3, 4)),
    grouped_case("all experts", (2, 3, 3, 3, 2)),
    grouped_case(
        "masked", (3, 9, 4, 2, 3), _mask(3, 9, [(0, 4), (0, 0), (1, None)])
    ),
    grouped_case("bfloat16", (2, 7, 4, 2, 8), dtype="bfloat16"),
    soft_case("ragged", (2, 7, 3, 2, 5)),
    soft_case("one of each", (3, 1, 1, 1, 2)),
    soft_case(
        "masked", (3, 9, 2, 3, 4), mask=_mask(3, 9, [(0, 4), (0, 0), (1, None)])
    ),
    soft_case("noise", (2, 5, 2, 2, 3), noise=True),
    soft_case(
        "learned temperatures", (2, 5, 4, 1, 3), learned=True, noise=True
    ),
    soft_case(
        "over tokens",
        (3, 5, 4, 1, 3),
        mask=_mask(3, 5, [(0, 2), (2, None)]),
        learned=True,
        combine_over="tokens",
    ),
    soft_case(
        "number temperatures",
        (2, 3, 2, 1, 3),
        merge_temperature=0.7,
        combine_over="tokens",
        copies=4,
    ),
    soft_case(
        "other emit temperature",
        (2, 3, 2, 1, 3),
        merge_temperature=0.7,
        emit_temperature=1.5,
    ),
    soft_case(
        "discrete",
        (2, 5, 3, 1, 3),
        mask=_mask(2, 5, [(0, 2)]),
        discrete=True,
        combine_over="tokens",
    ),
    unit_case("scale -38", (2, 7, 3, 2, 5), -38.0, zeros=[(0, 3), (1, None)]),
    unit_case(
        "unit, masked",
        (3, 9, 2, 3, 4),
        mask=_mask(3, 9, [(0, 4), (0, 0), (1, None)]),
    ),
    unit_case(
        "scale 100, masked",
        (3, 9, 2, 3, 4),
        100.0,
        mask=_mask(3, 9, [(0, 4), (0, 0), (1, None)]),
    ),
    unit_case("unit, noise", (2, 5, 2, 2, 3), 2.0, noise=True),
    unit_case("scale 40, bounded", (2, 7, 1, 1, 5), 40.0, max_scale=40.0),
    unit_case(
        "scale 3, bounded, masked",
        (3, 9, 2, 3, 4),
        3.0,
        mask=_mask(3, 9, [(0, 4), (0, 0), (1, None)]),
        max_scale=40.0,
    ),
    unit_case(
        "scale 4, bounded, bfloat16",
        (2, 7, 3, 2, 5),
        4.0,
        dtype="bfloat16",
        max_scale=40.0,
    ),
    unit_case("scale 4, bfloat16", (2, 7, 3, 2, 5), 4.0, dtype="bfloat16"),
    unit_case("scale 60, bfloat16", (2, 7, 3, 2, 5), 60.0, dtype="bfloat16"),
    unit_case("scale 4, float16", (2, 7, 3, 2, 5), 4.0, dtype="float16"),
]


def cases(*kinds):
    """The cases of these kinds of plan."""
    return [case for case in CASES if case.kind in kinds]


def case(kind, name):
    """The one case of this kind and name."""
    (found,) = [c for c in CASES if (c.kind, c.name) == (kind, name)]
    return found

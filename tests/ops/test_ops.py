"""Every implementation against the reference; wrong ones are found out."""

import dataclasses
import types

import pytest
from keras import ops

from keras_moe import ops as moe_ops
from keras_moe.ops import gather
from keras_moe.ops import grouped
from keras_moe.ops import reference
from tests import parity
from tests import support

OTHERS = [  # that run here; the reference itself is held by test_oracle.py
    name
    for name, one in moe_ops.IMPLEMENTATIONS.items()
    if support.BACKEND in one.backends and name != "reference"
]


def test_every_kind_of_plan_has_cases_and_the_reference():
    for implementation in moe_ops.IMPLEMENTATIONS.values():
        assert parity.cases(*implementation.plans)
    plans = moe_ops.IMPLEMENTATIONS["reference"].plans
    assert set(plans) == {case.kind for case in parity.CASES}


@pytest.mark.parametrize("name", OTHERS)
def test_implementation_is_the_reference(name):
    one = moe_ops.IMPLEMENTATIONS[name]
    refused = []
    for case in parity.cases(*one.plans):
        plan = case.plan(*map(ops.convert_to_tensor, case.weights))
        if one.obstacle(moe_ops.facts(plan, case.dtype)):
            refused.append(case.name)
        else:
            parity.assert_same(one.prepare, case)
    assert set(refused) == set(REFUSED.get(name, ()))


def named(*words):
    """Names of the cases of soft plans with one of these words."""
    cases = parity.cases("soft")
    return [c.name for c in cases if any(word in c.name for word in words)]


NOT_SOFTMAXES = ("temperature", "over tokens", "discrete")
UNBOUNDED = [
    name for name in named("") if not name.startswith(("unit", "scale"))
]
REFUSED = {
    "streaming": [
        *named("noise", "learned"),
        *named("over tokens", "number temperatures", "discrete"),
    ],
    "logsumexp": named(*NOT_SOFTMAXES),
}
REFUSED["cpu"] = [
    name
    for name in named("")
    if name in UNBOUNDED or "noise" in name or name.endswith(" float16")
]
# Learned scales have no bound that is known.
REFUSED["shared_exp"] = [
    name
    for name in named("")
    if name in REFUSED["cpu"] or ("scale" in name and "bounded" not in name)
]


def test_the_helper_lets_a_right_dispatcher_pass():
    for kind in ("soft", "hard", "grouped"):
        case = parity.case(kind, "masked")
        parity.assert_same(changed(lambda plan: plan), case)


# Deliberately wrong dispatchers -----------------------------------------------


def replacing(dispatch=None, combine=None, base=reference):
    """A `prepare` whose steps are these functions of (inputs, plan)."""

    def prepare(plan, dtype):
        right = base.prepare(plan, dtype)
        steps = {
            "dispatch": dispatch and (lambda tokens: dispatch(tokens, plan)),
            "combine": combine and (lambda slots: combine(slots, plan)),
        }
        return types.SimpleNamespace(
            dispatch=steps["dispatch"] or right.dispatch,
            combine=steps["combine"] or right.combine,
            product=right.product,
            shift=right.shift,
            activate=right.activate,
        )

    return prepare


def dispatched(tokens, plan, base=reference):
    return base.prepare(plan, tokens.dtype).dispatch(tokens)


def combined(slots, plan, base=reference):
    return base.prepare(plan, slots.dtype).combine(slots)


def changed(change, step="both"):
    """The reference on a plan that `change` has made another one of."""

    def wrong(function):
        return lambda inputs, plan: function(inputs, change(plan))

    return replacing(
        wrong(dispatched) if step != "combine" else None,
        wrong(combined) if step != "dispatch" else None,
    )


def replaced(**changes):
    """`changed`, where functions make new fields of the plan of the old."""

    def change(plan):
        new = {name: make(plan) for name, make in changes.items()}
        return dataclasses.replace(plan, **new)

    return change


def fill_empty_slots(tokens, plan):
    full = dataclasses.replace(
        plan, combine_weights=ops.ones_like(plan.combine_weights)
    )
    return dispatched(tokens, full, gather)


def mix_groups_up(tokens, plan):
    return ops.roll(dispatched(tokens, plan, gather), 1, axis=0)


def weigh_twice(tokens, plan):
    return dispatched(tokens, plan) * plan.combine_weights[..., None]


def mean_of_slots(slots, plan):
    _, weights = plan.weights()
    count = ops.sum(ops.cast(weights != 0, "float32"), axis=(2, 3))
    return combined(slots, plan) / ops.maximum(count, 1.0)[..., None]


def next_token(plan):
    token = (plan.token_index + 1) % plan.num_tokens
    return dataclasses.replace(plan, token_index=token)


def without_last_slot(plan):
    capacity = plan.combine_weights.shape[2]
    others = ops.cast(ops.arange(capacity) < capacity - 1, "float32")
    return dataclasses.replace(
        plan, combine_weights=plan.combine_weights * others
    )


def cut(function):
    """Right values, no gradient to the inputs."""
    return lambda inputs, plan: function(ops.stop_gradient(inputs), plan)


def over(dispatch_axes, combine_axes):
    """Dispatchers with softmaxes over these axes of (G,T,E,S)."""

    def weights(plan, axes):
        logits = ops.einsum("gtd,des->gtes", plan.tokens, plan.slots)
        return ops.exp(logits) / ops.sum(
            ops.exp(logits), axis=axes, keepdims=True
        )

    return replacing(
        lambda tokens, plan: ops.einsum(
            "gtes,gtd->gesd", weights(plan, dispatch_axes), tokens
        ),
        lambda slots, plan: ops.einsum(
            "gtes,gesd->gtd", weights(plan, combine_axes), slots
        ),
    )


# {what is wrong: (`prepare`, the case that must find it)}
WRONG_HARD = {
    "ignores the gate": (
        changed(
            replaced(
                combine_weights=lambda p: ops.cast(
                    p.combine_weights != 0, "float32"
                )
            ),
            "combine",
        ),
        "all slots taken",
    ),
    "forgets empty slots": (replacing(fill_empty_slots), "ragged"),
    "fills slots beyond the tokens": (
        replacing(fill_empty_slots),
        "more slots than tokens",
    ),
    "one token off": (changed(next_token, "dispatch"), "ragged"),
    "one token off in combine": (changed(next_token, "combine"), "ragged"),
    "gate in dispatch too": (replacing(weigh_twice), "all slots taken"),
    "mixes groups up": (replacing(mix_groups_up), "ragged"),
    "mean, not sum": (replacing(combine=mean_of_slots), "one token everywhere"),
    "last slot lost": (changed(without_last_slot), "all slots taken"),
    "no gradient to tokens": (replacing(cut(dispatched)), "ragged"),
    "no gradient to slots": (replacing(combine=cut(combined)), "ragged"),
    "no gradient to gates": (
        changed(
            replaced(
                combine_weights=lambda p: ops.stop_gradient(p.combine_weights)
            )
        ),
        "ragged",
    ),
}
WRONG_SOFT = {
    "dispatch over slots": (over((2, 3), (2, 3)), "ragged"),
    "combine over tokens": (over(1, 1), "ragged"),
    "combine within each expert": (over(1, 3), "ragged"),
    "ignores the mask": (changed(replaced(mask=lambda p: None)), "masked"),
    "ignores the noise": (changed(replaced(noise=lambda p: None)), "noise"),
    "ignores the merge temperature": (
        changed(replaced(merge_temperature=lambda p: 1.0)),
        "learned temperatures",
    ),
    "emits at the merge temperature": (
        changed(replaced(emit_temperature=lambda p: None)),
        "other emit temperature",
    ),
    "ignores copies": (
        changed(replaced(copies=lambda p: 1)),
        "number temperatures",
    ),
    "never discrete": (changed(replaced(discrete=lambda p: False)), "discrete"),
    "no gradient to tokens": (replacing(cut(dispatched)), "ragged"),
    "no gradient to slots": (replacing(combine=cut(combined)), "ragged"),
    "no gradient to the routed tokens": (
        changed(replaced(tokens=lambda p: ops.stop_gradient(p.tokens))),
        "ragged",
    ),
    "no gradient to embeddings": (
        changed(replaced(slots=lambda p: ops.stop_gradient(p.slots))),
        "ragged",
    ),
}


def beforehand(**changes):
    """Rows sorted by expert of a plan that was made another one."""
    change = replaced(**changes)
    return lambda plan, dtype: grouped.prepare(change(plan), dtype)


def with_product(product):
    """Rows sorted by expert, of which the experts make something else."""

    def prepare(plan, dtype):
        right = grouped.prepare(plan, dtype)
        return types.SimpleNamespace(
            dispatch=right.dispatch,
            combine=right.combine,
            product=lambda rows, kernels: product(right, rows, kernels),
            shift=right.shift,
            activate=right.activate,
        )

    return prepare


WRONG_GROUPED = {
    "ignores the gate": (
        beforehand(gate=lambda p: ops.cast(p.gate != 0, "float32")),
        "ragged",
    ),
    "next expert": (
        beforehand(expert=lambda p: (p.expert + 1) % p.num_experts),
        "ragged",
    ),
    "the first expert's kernel": (
        with_product(lambda right, rows, kernels: rows @ kernels[0]),
        "all experts",
    ),
    "no gradient to kernels": (
        with_product(
            lambda right, rows, kernels: right.product(
                rows, ops.stop_gradient(kernels)
            )
        ),
        "ragged",
    ),
    "no gradient to rows": (
        with_product(
            lambda right, rows, kernels: right.product(
                ops.stop_gradient(rows), kernels
            )
        ),
        "masked",
    ),
    "no gradient to gates": (
        beforehand(gate=lambda p: ops.stop_gradient(p.gate)),
        "one token",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_GROUPED)
def test_wrong_dispatcher_for_grouped_plans_fails(wrong):
    prepare, case = WRONG_GROUPED[wrong]
    with pytest.raises(AssertionError, match=f"grouped case {case}"):
        parity.assert_same(prepare, parity.case("grouped", case))


@pytest.mark.parametrize("wrong", WRONG_HARD)
def test_wrong_dispatcher_for_hard_plans_fails(wrong):
    prepare, case = WRONG_HARD[wrong]
    with pytest.raises(AssertionError, match=f"hard case {case}"):
        parity.assert_same(prepare, parity.case("hard", case))


@pytest.mark.parametrize("wrong", WRONG_SOFT)
def test_wrong_dispatcher_for_soft_plans_fails(wrong):
    prepare, case = WRONG_SOFT[wrong]
    with pytest.raises(AssertionError, match=f"soft case {case}"):
        parity.assert_same(prepare, parity.case("soft", case))

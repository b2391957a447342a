"""Old names of public fields work and warn."""

import dataclasses

import pytest

from keras_moe import routing

pytestmark = pytest.mark.once


def test_old_names_of_a_hard_plan():
    plan = routing.HardPlan("indices", "weights", 4)
    for old, new in (("token", "token_index"), ("gate", "combine_weights")):
        text = f"{old} of HardPlan is deprecated .* 0.2; use {new}"
        with pytest.warns(DeprecationWarning, match=text) as warned:
            assert getattr(plan, old) is getattr(plan, new)
        assert warned[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=text) as warned:
            other = dataclasses.replace(plan, **{old: "other"})
        assert getattr(other, new) == "other"
    with pytest.warns(DeprecationWarning):
        assert plan == routing.HardPlan(
            token="indices", gate="weights", num_tokens=4
        )


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_new_names_do_not_warn():
    plan = routing.HardPlan(
        token_index="indices", combine_weights="weights", num_tokens=4
    )
    assert (plan.token_index, plan.combine_weights) == ("indices", "weights")
    assert repr(plan).startswith("HardPlan(token_index='indices', combine_we")

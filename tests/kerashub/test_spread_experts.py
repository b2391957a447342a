"""KerasHub's experts on 8 devices compute what they compute on one."""

import numpy as np
import pytest

from tests.kerashub import models
from tests.programs import on_devices


@pytest.fixture(scope="module")
def facts():
    facts = on_devices("tests.kerashub.distribution_program")
    assert facts["devices"] == 8
    return facts


# The second one's experts are of int8 and have adapters (LoRA).
families = pytest.mark.parametrize("family", ["Mixtral", "gpt-oss"])


@pytest.mark.once
@families
def test_as_on_one_device(facts, family):
    alone, spread = facts["alone"][family], facts["spread"][family]
    close = {"rtol": 1e-4, "atol": 2e-5}
    np.testing.assert_allclose(spread["logits"], alone["logits"], **close)
    np.testing.assert_allclose(spread["loss"], alone["loss"], **close)
    for one, other in zip(spread["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(one, other, **close)


@pytest.mark.once
@families
def test_experts_lie_apart_and_stay(facts, family):
    spread = facts["spread"][family]
    experts = []
    for path, (whole, here) in spread["bytes"].items():
        if is_of_experts(path):
            assert 8 * here == whole, path
            experts.append(path)
        else:
            assert here == whole, path
    # Kernels and Adam's moments; of gpt-oss two kernels, their scales and
    # biases, four adapters and their moments.
    assert len(experts) == {"Mixtral": 9, "gpt-oss": 6 + 3 * 4}[family]
    kernels = {
        (models.EXPERTS, first, second)
        for first in (2, models.FEATURES, models.HIDDEN)
        for second in (2, models.FEATURES, models.HIDDEN)
    }
    for program in ("forward", "step"):
        exchanged = spread[program]
        assert "all-to-all" in {kind for kind, _ in exchanged}
        for kind, arrays in exchanged:
            if kind == "all-gather":
                assert not kernels & {tuple(shape) for _, shape in arrays}


def is_of_experts(path):
    """Also of an optimizer's variable for such a weight."""
    path = path.replace("/", "_")
    kinds = ("expert_", "lora_", "gate_", "down_")
    return any(f"experts_{kind}" in path for kind in kinds)

"""keras_moe against arrays that the published reference codes gave.

The tables in `tests/goldens` say for every case how it is matched: plan,
outputs, gradients of inputs and parameters and, where recorded, expert inputs,
auxiliary losses and their gradients.
"""

import pytest
from keras import ops

from keras_moe.ops import gather
from tests.goldens import designs
from tests.goldens import expert_choice
from tests.goldens import golden as goldens
from tests.goldens import llm_random_choice
from tests.goldens import mixture
from tests.goldens import soft
from tests.goldens import token_choice

TABLES = (
    soft.CASES,
    expert_choice.CASES,
    llm_random_choice.CASES,
    token_choice.CASES,
    mixture.CASES,
    designs.CASES,
)
CASES = {name: case for table in TABLES for name, case in table.items()}
MATCHED = [name for name, case in CASES.items() if case.compare is not None]


def count(group):
    """For the test's name: what pytest -v reports of a group."""
    total = sum(e["group"] == group for e in goldens.manifest().values())
    matched = sum(name.startswith(group) for name in MATCHED)
    return f"{group}: {matched} of {total} matched"


@pytest.mark.parametrize("name", MATCHED)
def test_case_is_matched(name):
    CASES[name].compare(goldens.Golden(name))


def test_every_case_is_in_the_table():
    assert set(CASES) == set(goldens.manifest())
    assert len(CASES) == sum(len(table) for table in TABLES)


@pytest.mark.parametrize("group", "ACDE", ids=count)
def test_cases_that_are_not_matched_say_why(group):
    print(count(group))
    for name, entry in goldens.manifest().items():
        case = CASES[name]
        assert name.startswith(entry["group"])
        if entry["group"] != group:
            continue
        if case.compare is None:
            assert case.how == goldens.NOT_EXPRESSIBLE
            assert len(case.note.split()) > 5
        else:
            assert case.how in (
                goldens.LAYER,
                goldens.REARRANGED,
                goldens.FUNCTIONS,
            )


@pytest.mark.parametrize("name", CASES)
def test_file_is_the_recorded_one(name):
    assert goldens.digest(name) == goldens.manifest()[name]["sha256"]


# === The comparison must be able to fail ===


@pytest.mark.parametrize(
    "name, change",
    [
        ("A_soft_noise", {"noise_std": 1.001}),
        ("C_vmoe_ec_noise", {"noise_std": 1.001}),
        ("C_llmr_ec_softmax_tokens", {"softmax_over": "experts"}),
        ("D_vmoe_top2_noise_all_losses", {"load_loss_weight": 0.701}),
        ("E_mot_sd0", {"temperature": 1.001}),
    ],
)
def test_a_wrong_hyperparameter_fails(name, change):
    golden = goldens.Golden(name)
    golden.hyper = {**golden.hyper, **change}
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        CASES[name].compare(golden)


def test_a_wrong_room_fails(monkeypatch):
    right = gather.GatherDispatcher.combine
    monkeypatch.setattr(
        gather.GatherDispatcher,
        "combine",
        lambda self, slots: 1.0001 * right(self, slots),
    )
    with pytest.raises(AssertionError, match="D_vmoe_top1_einsum: grads"):
        test_case_is_matched("D_vmoe_top1_einsum")


def test_a_wrong_gradient_alone_fails(monkeypatch):
    """Rounded forward as it should be, but not backward."""
    right = goldens.bfloat16
    monkeypatch.setattr(
        goldens, "bfloat16", lambda x: x + ops.stop_gradient(right(x) - x)
    )
    with pytest.raises(AssertionError, match="C_vmoe_ec_cf2_bf16: grads/"):
        test_case_is_matched("C_vmoe_ec_cf2_bf16")


def test_a_missing_quantity_fails():
    golden = goldens.Golden("E_mot_sd0")
    record = golden.record()
    golden.check(record, record)
    part = {n: a for n, a in record.items() if n != "grads/inputs"}
    with pytest.raises(AssertionError, match="grads/inputs"):
        golden.check(part, record)

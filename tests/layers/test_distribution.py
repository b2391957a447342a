"""Experts on many devices compute what they compute on one."""

import csv
import math
import pathlib

import keras
import numpy as np
import pytest

from keras_moe import distribution
from tests.programs import on_devices
from tests.support import BACKEND

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def facts():
    facts = on_devices("tests.layers.distribution_program")
    assert facts["devices"] == 8
    return facts


LAYERS = (
    "soft",
    "expert_choice",
    "mixture",
    "capacity",
    "crowded",
    "dropless",
    "dropless_crowded",
)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def assert_as_alone(spread, alone):
    np.testing.assert_allclose(spread["logits"], alone["logits"], **CLOSE)
    np.testing.assert_allclose(spread["loss"], alone["loss"], **CLOSE)


@pytest.mark.once
@pytest.mark.parametrize("mesh", ["8", "4"])
@pytest.mark.parametrize("layer", LAYERS)
def test_as_on_one_device(facts, mesh, layer):
    alone, spread = facts["alone"][layer], facts[mesh][layer]
    assert_as_alone(spread, alone)
    assert len(alone["weights"]) == len(spread["weights"]) >= 7
    for one, other in zip(alone["weights"], spread["weights"]):
        np.testing.assert_allclose(other, one, **CLOSE)


@pytest.mark.once
@pytest.mark.parametrize("layer", ["thresholds", "balance"])
def test_routers_learn_from_the_batch_of_all_devices(facts, layer):
    alone, spread = facts["alone"][layer], facts["8"][layer]
    assert_as_alone(spread, alone)
    ((one,), (other,)) = alone["moved"], spread["moved"]
    np.testing.assert_allclose(other, one, **CLOSE)
    assert np.any(one)


@pytest.mark.once
@pytest.mark.parametrize("mesh", ["8", "4"])
def test_fit_and_predict(facts, mesh):
    assert_as_alone(facts[mesh]["fit"], facts["alone"]["soft"])


@pytest.mark.once
@pytest.mark.parametrize("mesh, rows", [("8", 1), ("4", 2)])
@pytest.mark.parametrize("layer", LAYERS)
def test_slots_are_exchanged_and_nothing_is_gathered(facts, mesh, rows, layer):
    assert facts[mesh]["mesh"] == [rows, int(mesh)]
    assert facts[mesh]["replicas"] == 8
    spread = facts[mesh][layer]
    # There and back. Dropless rows come after their numbers, E integers.
    exchanges = 2 + layer.startswith("dropless")
    kinds = [kind for kind, _ in spread["forward"]]
    assert kinds == exchanges * ["all-to-all"]
    kinds = [kind for kind, _ in spread["step"]]
    # The gradients of experts are added up among the rows of the mesh (of
    # dropless ones where there is one row, too), all others among all devices.
    # Inputs need no gradient; the router may.
    assert kinds.count("all-reduce") == max(rows, exchanges - 1)
    assert exchanges < kinds.count("all-to-all") <= exchanges + 2
    assert set(kinds) == {"all-to-all", "all-reduce"}
    numbers = [
        what
        for _, arrays in spread["forward"]
        for what in arrays
        if what[0] != "f32"
    ]
    assert sum(math.prod(shape) for _, shape in numbers) <= 8


@pytest.mark.once
@pytest.mark.parametrize("name, exchanges", [("dropless", 3), ("backbone", 2)])
def test_what_is_computed_again_gathers_nothing(facts, name, exchanges):
    """`Recompute` and `recompute=True` against one device without them."""
    alone, again = facts["alone"][name], facts["again"][name]
    assert_as_alone(again, alone)
    for one, other in zip(alone["weights"], again["weights"], strict=True):
        np.testing.assert_allclose(other, one, **CLOSE)
    assert len(again["forward"]) == exchanges
    kinds = [kind for kind, _ in again["step"]]
    assert set(kinds) == {"all-to-all", "all-reduce"}
    # There and back in each of both runs, and for the gradients.
    again_and_back = kinds.count("all-to-all") - 2 * exchanges
    assert 1 <= again_and_back <= 2


@pytest.mark.once
@pytest.mark.parametrize("layer", ["capacity", "dropless"])
def test_tokens_stay_where_each_device_has_all_experts(facts, layer):
    spread = facts["data"][layer]
    assert_as_alone(spread, facts["alone"][layer])
    assert spread["forward"] == []
    assert {kind for kind, _ in spread["step"]} == {"all-reduce"}


@pytest.mark.once
@pytest.mark.parametrize("mesh", ["8", "4"])
@pytest.mark.parametrize("layer", ["soft", "dropless"])
def test_bytes_of_experts_are_shared_out(facts, mesh, layer):
    experts = 0
    for path, (whole, here) in facts[mesh][layer]["bytes"].items():
        if "experts" in path:
            assert here * int(mesh) == whole, path
            experts += 1
        else:
            assert here == whole, path
    # Weights and Adam's two moments; gated experts have six.
    assert experts == 3 * (4 if layer == "soft" else 6)


@pytest.mark.once
def test_devices_that_do_not_fit(facts):
    assert facts["refused"] == (
        "expert_devices must divide the number of devices, 8; received 3."
    )


@pytest.mark.once
def test_mesh_without_experts():
    mesh = keras.distribution.DeviceMesh((2,), ("data",), ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match="^mesh must have an axis 'expert'"):
        distribution.layout_map(mesh)


@pytest.mark.once
def test_other_backends_are_refused():
    assert BACKEND != "jax"
    with pytest.raises(ValueError, match="^expert_parallel needs the JAX back"):
        distribution.expert_parallel()


@pytest.mark.once
def test_paths_of_weights():
    """The layout map finds the experts of models, and nothing else."""
    mesh = keras.distribution.DeviceMesh(
        (1, 2), ("data", "expert"), ["cpu:0", "cpu:1"]
    )
    layouts = distribution.layout_map(mesh)
    for path in ("block_3/moe/experts/up/kernel", "experts/down/bias"):
        assert layouts[path].axes == ("expert", None, None)
    for path in ("block_3/mlp/up/kernel", "block_3/moe/router_kernel"):
        assert layouts[path] is None


@pytest.mark.once
def test_tokens_of_hard_plans_stay_with_their_group():
    """Where each device holds some groups, nothing is exchanged."""
    facts = on_devices("tests.layers.gather_program")
    assert facts["devices"] == 8
    assert facts["there_and_back"] == facts["gradients"] == []


@pytest.mark.once
def test_programs_for_tpus_gather_nothing():
    """Compiled for them, neither weights nor tokens, by any router."""
    (path,) = RESULTS.glob("expert_parallel_routers-*.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        assert row["data_x_expert"] in ("1x8", "2x4")
        assert row["all-gather"] == row["reduce-scatter"] == "0"
    assert len(rows) == 6

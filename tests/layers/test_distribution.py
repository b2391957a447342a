"""Experts on many devices compute what they compute on one."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_moe import distribution
from tests.support import BACKEND

PROGRAM = pathlib.Path(__file__).with_name("distribution_program.py")


def said_by(program):
    """What a program says of 8 virtual devices, with JAX."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-m", program],
        env=environment,
        cwd=PROGRAM.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def facts():
    facts = said_by("tests.distribution_program")
    assert facts["devices"] == 8
    return facts


@pytest.mark.once
@pytest.mark.parametrize("mesh", ["8", "4"])
def test_as_on_one_device(facts, mesh):
    alone, spread = facts["alone"], facts[mesh]
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(spread["logits"], alone["logits"], **close)
    np.testing.assert_allclose(spread["loss"], alone["loss"], **close)
    # The numbers in the layers' names go on from model to model.
    pairs = zip(alone["weights"].values(), spread["weights"].values())
    assert len(alone["weights"]) == len(spread["weights"]) == 8
    for one, other in pairs:
        np.testing.assert_allclose(other, one, **close)


@pytest.mark.once
@pytest.mark.parametrize("mesh, rows", [("8", 1), ("4", 2)])
def test_slots_travel_and_weights_stay(facts, mesh, rows):
    spread = facts[mesh]
    assert spread["mesh"] == [rows, int(mesh)]
    assert spread["replicas"] == 8
    kinds = [kind for kind, _ in spread["forward"]]
    assert kinds == 2 * ["all-to-all"]  # there and back
    kinds = sorted(kind for kind, _ in spread["step"])
    # Gradients: those of experts among the rows, all others everywhere.
    assert kinds == rows * ["all-reduce"] + 4 * ["all-to-all"]


@pytest.mark.once
@pytest.mark.parametrize("mesh", ["8", "4"])
def test_bytes_of_experts_are_shared_out(facts, mesh):
    experts = 0
    for path, (whole, here) in facts[mesh]["bytes"].items():
        if "experts" in path:
            assert here * int(mesh) == whole, path
            experts += 1
        else:
            assert here == whole, path
    assert experts == 3 * 4  # weights and Adam's two moments


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
    facts = said_by("tests.gather_program")
    assert facts["devices"] == 8
    assert facts["there_and_back"] == facts["gradients"] == []

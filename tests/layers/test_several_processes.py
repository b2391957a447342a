"""Two processes of JAX or TensorFlow train as one does; files go both ways."""

import numpy as np
import pytest

from keras_moe import distribution
from tests.layers import four_routers
from tests.programs import said_by

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
LOSSES = {"loss", *(f"{name}_loss" for name in four_routers.LAYERS)}


def assert_same(some, others):
    assert len(some) == len(others) > 50  # weights, and their momenta
    for one, other in zip(some, others):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.once
def test_jax():
    facts = said_by(
        "tests.layers.jax_processes_program", "jax", JAX_PLATFORMS="cpu"
    )
    alone, first, second = (facts[name] for name in ("alone", "0", "1"))
    for member in (first, second):
        assert member["devices"] == [8, 4]
        # The losses that `fit` tells are those of the joint batch.
        assert set(member["losses"]) == set(alone["losses"]) == LOSSES
        for name, losses in alone["losses"].items():
            assert len(losses) == four_routers.STEPS
            np.testing.assert_allclose(member["losses"][name], losses, **CLOSE)
        assert_same(member["state"], alone["state"])
        # A file that one process wrote, read by both; and the other way round.
        assert member["read"] == alone["state"]
        assert alone["read"] == first["state"]
        # After the block each process has its own experts again, also after
        # one that fails.
        assert member["kept"]
        assert member["failed"] == "OSError: the second exchange"
        experts = 0
        for path, (whole, here) in member["bytes"].items():
            if "experts" in path:
                assert 2 * here == whole, path
                experts += 1
            else:
                assert here == 4 * whole, path
        assert experts == 2 * 4 * 4  # weights, and their momenta
        assert member["refused"] == (
            "ValueError: experts that are spread over processes must be saved "
            "within keras_moe.distribution.whole_experts; received "
            "'soft_moe/experts/up' with 4 of 8 experts."
        )
        assert "spans non-addressable" in member["predict"]


@pytest.mark.once
def test_tensorflow():
    facts = said_by("tests.layers.workers_program", "tensorflow")
    alone, first, second = (facts[name] for name in ("alone", "0", "1"))
    assert set(alone["losses"]) == LOSSES
    for name, losses in alone["losses"].items():
        assert len(losses) == four_routers.STEPS
        # Each worker has the mean loss of its own half of the batch.
        mean = np.add(first["losses"][name], second["losses"][name]) / 2
        np.testing.assert_allclose(mean, losses, **CLOSE)
    for worker in (first, second):
        assert worker["replicas"] == 2
        assert_same(worker["state"], alone["state"])
        assert worker["read"] == alone["state"]
        assert worker["fit"].startswith(
            "ValueError: Attempt to convert a value (PerReplica:"
        )
    assert facts["read"]["read"] == first["state"]


@pytest.mark.once
def test_without_a_model(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    block = distribution.whole_experts("model")
    with pytest.raises(ValueError, match="^model must be a Keras model or lay"):
        block.__enter__()
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="^whole_experts needs the JAX or PyT"):
        distribution.whole_experts("model")

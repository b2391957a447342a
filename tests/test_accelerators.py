"""What JAX alone has: forms for accelerators, run on a CPU, and one for CPUs.

Pallas kernels are interpreted.
"""

import numpy as np
import pytest

from keras_moe.ops import shared_exp
from keras_moe.ops import streaming
from tests import parity
from tests import support
from tests.test_soft_routing import loss
from tests.test_soft_routing import operations
from tests.test_soft_routing import tokens_and_embeddings

# The other backends have nothing of the kind.
KERNELS = ["masked"] if support.BACKEND == "jax" else []
FORMULAS = [
    case.name
    for case in parity.cases("soft")
    if support.BACKEND == "jax"
    and ("scale" in case.name or "unit" in case.name)
]


@pytest.fixture
def interpreted(monkeypatch):
    from jax.experimental.pallas import tpu

    monkeypatch.setattr(streaming.room, "on_tpu", lambda: True)
    with tpu.force_tpu_interpret_mode():
        yield


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_the_reference(name, interpreted):
    parity.assert_same(streaming.prepare, parity.case("soft", name))


@pytest.mark.parametrize("name", FORMULAS)
def test_one_exponential_is_the_reference(name, monkeypatch):
    monkeypatch.setattr(shared_exp.room, "on_cpu", lambda: False)
    parity.assert_same(shared_exp.prepare, parity.case("soft", name))


@pytest.mark.parametrize("on_cpu", [True, False] if KERNELS else [])
def test_branches_hold_no_weights(on_cpu, monkeypatch):
    """Where they do, a compiler cannot join products with what is around."""
    monkeypatch.setattr(shared_exp.room, "on_cpu", lambda: on_cpu)
    arrays = (*tokens_and_embeddings(), np.float32(3.0))
    made = operations(
        lambda t, e, scale: loss("shared_exp", scale)(t, e), *arrays
    )
    branches = [size for name, size in made if name == "cond"]
    assert branches and (48 * 40 in branches) == on_cpu


@pytest.mark.parametrize("name", FORMULAS)
def test_large_weights_are_the_reference(name, monkeypatch):
    from keras_moe.ops.shared_exp import jax_cpu

    monkeypatch.setattr(jax_cpu, "LARGE", 1)
    parity.assert_same(shared_exp.prepare, parity.case("soft", name))


@pytest.mark.parametrize("large", [True, False] if KERNELS else [])
def test_large_weights_are_summed_the_other_way(large, monkeypatch):
    """In dispatch and in the gradient of combine."""
    from keras_moe.ops.shared_exp import jax_cpu

    monkeypatch.setattr(jax_cpu, "LARGE", 48 * 40 + (not large))
    made = operations(loss("shared_exp", None), *tokens_and_embeddings())
    names = [name for name, _ in made]
    assert names.count("optimization_barrier") == (2 if large else 0)

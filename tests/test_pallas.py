"""The TPU kernels of `streaming`, interpreted on a CPU."""

import pytest

from keras_moe.ops import streaming
from tests import parity
from tests import support

# There are none on the other backends.
CASES = ["masked"] if support.BACKEND == "jax" else []


@pytest.fixture
def interpreted(monkeypatch):
    from jax.experimental.pallas import tpu

    monkeypatch.setattr(streaming.room, "on_tpu", lambda: True)
    with tpu.force_tpu_interpret_mode():
        yield


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_reference(name, interpreted):
    parity.assert_same(streaming.prepare, parity.case("soft", name))

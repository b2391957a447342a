"""Contrastive losses over 8 devices: all of a batch's negatives count.

On PyTorch, over the processes of a group.
"""

import numpy as np
import pytest

from tests.programs import on_devices
from tests.programs import said_by

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.once
def test_as_on_one_device():
    facts = on_devices("tests.models.two_tower.devices_program")
    assert facts["devices"] == facts["encoded on"] == 8
    assert len(facts["alone"]) == 6
    for name, (value, grads) in facts["alone"].items():
        found, others = facts["spread"][name]
        np.testing.assert_allclose(found, value, **CLOSE, err_msg=name)
        for one, other in zip(others, grads):
            np.testing.assert_allclose(one, other, **CLOSE, err_msg=name)
    alone, spread = facts["encoded"]
    assert np.shape(alone)[0] == 9
    np.testing.assert_allclose(spread, alone, **CLOSE)


@pytest.mark.once
def test_processes_of_pytorch_as_one():
    """Losses are those of the joint batch, and so are all weights."""
    facts = said_by("tests.models.two_tower.processes_program", "torch")
    assert set(facts["alone"]) == {"sigmoid", "softmax"}
    for kind, alone in facts["alone"].items():
        both = facts["both"][kind]
        np.testing.assert_allclose(both["losses"], alone["losses"], **CLOSE)
        assert alone["losses"][1] < alone["losses"][0]
        for path, weight in alone["weights"].items():
            found = both["weights"][path]
            np.testing.assert_allclose(found, weight, **CLOSE, err_msg=path)

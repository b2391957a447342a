"""Contrastive losses over 8 devices: all of a batch's negatives count."""

import numpy as np
import pytest

from tests.layers.test_distribution import said_by

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.once
def test_as_on_one_device():
    facts = said_by("tests.models.two_tower.devices_program")
    assert facts["devices"] == 8
    assert len(facts["alone"]) == 6
    for name, (value, grads) in facts["alone"].items():
        found, others = facts["spread"][name]
        np.testing.assert_allclose(found, value, **CLOSE, err_msg=name)
        for one, other in zip(others, grads):
            np.testing.assert_allclose(one, other, **CLOSE, err_msg=name)

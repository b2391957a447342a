"""A replica without an example takes part in training and spoils nothing."""

import numpy as np
import pytest

from tests.programs import said_by


@pytest.mark.once
def test_a_replica_that_the_last_batch_leaves_empty():
    facts = said_by("tests.layers.replicas_program", "tensorflow")
    assert facts["replicas"] == 2
    assert np.isfinite(facts["losses"]).all(), facts["losses"]
    assert facts["finite"] and all(facts["finite"])

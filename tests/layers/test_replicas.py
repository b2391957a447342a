"""A replica without an example takes part in training and spoils nothing."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.once
def test_a_replica_that_the_last_batch_leaves_empty():
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.layers.replicas_program"],
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["replicas"] == 2
    assert np.isfinite(facts["losses"]).all(), facts["losses"]
    assert facts["finite"] and all(facts["finite"])

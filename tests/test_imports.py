"""What `import keras_moe` brings along: Keras, its backend, nothing else."""

import json
import subprocess
import sys

import keras
import pytest

FOREIGN = ("jax", "tensorflow", "torch", "keras_hub", "matplotlib", "sklearn")
CODE = """
import json, sys
import {module}
print(json.dumps(sorted({foreign!r} & set(sys.modules))))
"""


def loaded_by(module, backend):
    code = CODE.format(module=module, foreign=set(FOREIGN))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.once
def test_import_brings_no_more_than_keras_does():
    backend = keras.backend.backend()
    loaded = loaded_by("keras_moe", backend)
    assert backend in loaded
    assert "keras_hub" not in loaded
    assert loaded == loaded_by("keras", backend)

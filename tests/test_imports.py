"""What `import keras_moe` brings along: Keras, its backend, nothing else."""

import json
import os
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


LAZY = ("kerashub", "models", "planning", "upcycling", "visualize")
FUNCTIONS = (
    "enable_expert_lora",
    "load_expert_lora",
    "merge_expert_lora",
    "quantize_experts",
    "quantize_while_loading",
    "save_expert_lora",
    "upcycle",
    "use_dense_experts",
    "use_sparse_experts",
)
ATTRIBUTES = """
import sys
import keras_moe
assert "keras_hub" not in sys.modules
absent = {absent!r}
for package in absent:
    # As if it were not installed, also where Keras has imported it.
    for name in [package, *sys.modules]:
        if name.split(".")[0] == package:
            sys.modules[name] = None
assert {lazy!r} <= set(dir(keras_moe)), dir(keras_moe)
assert {{"layers", *{functions!r}}} <= set(dir(keras_moe)), dir(keras_moe)
keras_moe.planning.flops
figure = keras_moe.visualize.report
for name in ("kerashub", "models", "upcycling", *{functions!r}):
    try:
        getattr(keras_moe, name)
    except ImportError as error:
        assert "pip install 'keras-moe[models]'" in str(error), error
        assert absent, name
    else:
        assert not absent, name
try:
    keras_moe.visualize.canvas.new_figure(1, 1)
except ImportError as error:
    assert "pip install 'keras-moe[viz]'" in str(error), error
    assert absent
else:
    assert not absent
try:
    keras_moe.modles
except AttributeError as error:
    assert "has no attribute 'modles'" in str(error)
else:
    raise AssertionError("a name that does not exist")
"""


@pytest.mark.once
@pytest.mark.parametrize("absent", [(), ("keras_hub", "matplotlib")])
def test_modules_are_there_after_import_keras_moe(absent):
    code = ATTRIBUTES.format(absent=absent, lazy=set(LAZY), functions=FUNCTIONS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

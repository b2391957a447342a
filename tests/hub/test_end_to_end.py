"""A model that was published is read back by a process that only knows it."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from tests.hub.server import Fault
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_classifier
from tests.models.support import randomize
from tests.support import BACKEND

HANDLE = "hf://someone/tiny"
CODE = """
import sys
import numpy as np
from keras_moe.models import MoEViTImageClassifier
from tests.models.support import evaluate, images_of
model = MoEViTImageClassifier.from_preset(sys.argv[1])
np.save(sys.argv[2], evaluate(model, images_of()))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of a preset, and what its model says."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    classifier = randomize(make_classifier("dense"))
    classifier.save_to_preset(folder)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return files, classifier, evaluate(classifier, images_of())


def test_two_processes_that_load_at_once(hub, saved, tmp_path):
    """One is started for the Hub as users do, this one shares its cache."""
    files, _, wanted = saved
    hub.push("someone/tiny", files)
    out = tmp_path / "logits.npy"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, HANDLE, str(out)],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "KERAS_BACKEND": BACKEND,
        },
    )
    # Every file is asked for while the other one asks for it.
    loaded = MoEViTImageClassifier.from_preset(HANDLE)
    close(evaluate(loaded, images_of()), wanted, 0)
    assert process.wait() == 0
    close(np.load(out), wanted, 1e-6)


def test_never_other_weights(hub, saved):
    """Where a weight file cannot be had, no class starts with new ones."""
    files, classifier, _ = saved
    hub.push("someone/tiny", files)
    hub.faults = [Fault("/task.weights.h5", status=503)]
    with pytest.raises(OSError, match="task.weights.h5"):
        MoEViTImageClassifier.from_preset(HANDLE)
    with pytest.raises(OSError, match="task.weights.h5"):
        MoEViTBackbone.from_preset(HANDLE)
    hub.faults = []
    backbone = MoEViTBackbone.from_preset(HANDLE)
    for ours, theirs in zip(backbone.weights, classifier.backbone.weights):
        close(*map(keras.ops.convert_to_numpy, (ours, theirs)), 0)

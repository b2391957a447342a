"""A model that was published is read back by a process that only knows it."""

import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from tests.hub.server import Fault
from tests.models.support import make_classifier
from tests.models.support import randomize
from tests.support import BACKEND

HANDLE = "hf://someone/tiny"
CODE = """
import sys
import keras
import numpy as np
from keras_moe.models import MoEViTImageClassifier
model = MoEViTImageClassifier.from_preset(sys.argv[1])
arrays = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
np.savez(sys.argv[2], **arrays)
"""


def arrays_of(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of a preset, and the weights of its model."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    classifier = randomize(make_classifier("dense"))
    classifier.save_to_preset(folder)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return files, arrays_of(classifier)


@pytest.mark.once
def test_two_processes_at_once(hub, saved, tmp_path):
    """One is started as users do; both begin together with one empty cache."""
    files, wanted = saved
    hub.push("someone/tiny", files)
    listing = "/api/models/someone/tiny/revision/main"
    hub.faults = [Fault(listing, meet=threading.Barrier(2), times=2)]
    out = tmp_path / "weights.npz"
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
    while ("GET", listing) not in hub.requests:
        assert process.poll() is None
        threading.Event().wait(0.05)
    equal(arrays_of(MoEViTImageClassifier.from_preset(HANDLE)), wanted)
    assert process.wait() == 0
    with np.load(out) as found:
        equal(dict(found), wanted)


def equal(found, wanted):
    assert set(found) == set(wanted)
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_never_other_weights(hub, saved):
    """Where a weight file cannot be had, no class starts with new ones."""
    files, wanted = saved
    hub.push("someone/tiny", files)
    hub.faults = [Fault("/task.weights.h5", status=503)]
    with pytest.raises(OSError, match="task.weights.h5"):
        MoEViTImageClassifier.from_preset(HANDLE)
    with pytest.raises(OSError, match="task.weights.h5"):
        MoEViTBackbone.from_preset(HANDLE)
    hub.faults = []
    found = arrays_of(MoEViTBackbone.from_preset(HANDLE))
    equal(found, {path: wanted[path] for path in found})

"""Programs start quietly, and Ctrl-C ends them in one line at once."""

import os
import pathlib
import subprocess
import sys

import pytest

from keras_moe import starting

pytestmark = pytest.mark.once
ROOT = pathlib.Path(__file__).parent.parent
LOG = b"""\
WARNING: All log messages before absl::InitializeLog() is called are written
I0000 00:00:1795745339.996003    5913 port.cc:153] oneDNN operations are on.
2025-01-02 03:04:05.678901: I tensorflow/core/platform.cc:210] optimized
To enable the following instructions: AVX2 FMA, rebuild TensorFlow.
E0000 00:00:1795745339.996003    5913 cuda_dnn.cc:8310] Unable to register
"""
KEPT = b"""\
F0000 00:00:1795745339.996003    5913 check.cc:1] Check failed
/some/file.py:3: UserWarning: matters
"""
# In the place of Keras, which takes seconds to import.
INTERRUPTED = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(20)
"""


def program(words, folder, **modules):
    """A finished process that imports some modules of these texts."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    paths = [str(folder), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env.pop(starting.LEVEL, None)
    return subprocess.run(
        [sys.executable, *words],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", starting.PROGRAMS)
def test_ctrl_c_while_keras_is_imported(name, tmp_path):
    done = program(["-m", name, "--help"], tmp_path, keras=INTERRUPTED)
    assert done.returncode == 130
    assert done.stderr == "interrupted while starting; nothing was written\n"


@pytest.mark.parametrize("words", [["-c", "import keras_moe"], ["-m", "mine"]])
def test_programs_of_others_are_left_alone(words, tmp_path):
    mine = {"mine": "import keras_moe"} if "mine" in words else {}
    done = program(words, tmp_path, keras=INTERRUPTED, **mine)
    assert done.returncode != 130 and "KeyboardInterrupt" in done.stderr


def test_one_line_without_kerashub(tmp_path):
    """A real start, of Keras and its backend, and the one line."""
    absent = "raise ImportError('absent')"
    done = program(["-m", "keras_moe", "presets"], tmp_path, keras_hub=absent)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "keras-moe[models]" in line


def test_quiet_leaves_out_the_log_alone(capfd, monkeypatch):
    monkeypatch.delenv(starting.LEVEL, raising=False)
    with starting.quiet():
        os.write(2, LOG + KEPT)
    assert capfd.readouterr().err.encode() == KEPT
    with pytest.raises(ImportError), starting.quiet():
        os.write(2, LOG + KEPT)
        raise ImportError
    assert capfd.readouterr().err.encode() == KEPT
    monkeypatch.setenv(starting.LEVEL, "0")
    with starting.quiet():
        os.write(2, LOG)
    assert capfd.readouterr().err.encode() == LOG

"""A run that was broken off anywhere ends like one that was not, exactly."""

import collections
import errno
import json
import os
import pathlib
import shutil
import signal

import h5py
import keras
import numpy as np
import pytest

from keras_moe.models.presets import manifest
from tests.support import BACKEND
from tests.zoo import test_text
from tests.zoo import test_train
from tests.zoo.test_text import plays as plays
from tests.zoo.test_train import data_folder as data_folder
from zoo import recipe as recipes
from zoo.__main__ import main
from zoo.errors import DataError
from zoo.training import train

SMALL = {"vision": test_train.SMALL, "text": test_text.SMALL}
DATA = {"vision": "data_folder", "text": "plays"}


# Both on two backends; compiling is slow on each.
TASKS = ["text"] if BACKEND == "tensorflow" else list(SMALL)


@pytest.fixture(params=TASKS)
def task(request):
    """A recipe, and the folder of its data."""
    return SMALL[request.param], request.getfixturevalue(DATA[request.param])


def state_of(folder):
    """{name: array} of all that is kept after two epochs."""
    found = {}
    with h5py.File(folder / "backup" / "2.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update(
                {name: item[()]} if isinstance(item, h5py.Dataset) else {}
            )
        )
    return found


def check_equal(folder, whole):
    ours, wanted = state_of(folder), state_of(whole)
    assert ours.keys() == wanted.keys()
    assert sum("optimizer" in name for name in wanted) > 20
    for name, array in wanted.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    histories = [
        json.loads((one / "history.json").read_text())
        for one in (folder, whole)
    ]
    for entries in histories:
        for entry in entries:
            del entry["seconds"]
    assert histories[0] == histories[1]
    assert [path.name for path in (folder / "backup").iterdir()] == [
        "2.weights.h5"
    ]


def test_goes_on_exactly(task, tmp_path, monkeypatch, recwarn):
    recipe, data = task
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def keep(self, epoch, logs=None):
        """Copy what a process leaves that ends in the second epoch."""
        self.started = 0
        if epoch == 1:
            shutil.copytree(whole, parts)

    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "on_epoch_begin", keep)
        train.train(recipe, whole, 3, data)
    train.train(recipe, parts, 3, data)
    check_equal(parts, whole)
    skipped = [w for w in recwarn if "Skipping" in str(w.message)]
    assert not skipped, skipped[0].message


def interrupt(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)


def before(function):
    """A function that Ctrl-C meets."""

    def interrupted(*args, **kwargs):
        interrupt()
        return function(*args, **kwargs)

    return interrupted


def write_half(self, path, **kwargs):
    pathlib.Path(path).write_bytes(b"half")
    interrupt()


# Where Ctrl-C meets a run: a step, the state, the history, the preset.
PLACES = [
    (train.Progress, "on_train_batch_end", interrupt),
    (keras.Model, "save_weights", write_half),
    (train.History, "__setitem__", before(train.History.__setitem__)),
    (manifest, "write_json", None),
]


@pytest.mark.once
def test_ctrl_c_anywhere(data_folder, tmp_path, monkeypatch, capsys):
    recipe = SMALL["vision"]
    monkeypatch.setattr(recipes, "load", lambda name: recipe)
    command = ["train", recipe.name, "--data", str(data_folder), "--runs"]
    main([*command, str(tmp_path / "whole")])
    run = tmp_path / "parts" / recipe.name / "seed-0"
    for owner, name, replaced in PLACES:
        if replaced is None:
            replaced = before(getattr(owner, name))
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replaced)
            with pytest.raises(SystemExit) as end:
                main([*command, str(tmp_path / "parts")])
        assert end.value.code == 130
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.splitlines()[-1] == (
            "interrupted; the same command resumes from the last saved epoch"
        )
        left = [path.name for path in run.rglob("*")]
        assert not [name for name in left if "part" in name], left
        assert "preset" not in left
    main([*command, str(tmp_path / "parts")])
    check_equal(run, tmp_path / "whole" / recipe.name / "seed-0")
    assert (run / "preset" / "config.json").is_file()


def is_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # without a name


def is_full_for_h5(self, path, **kwargs):
    path.write_bytes(b"half")
    raise RuntimeError(  # as h5py has it
        f"Can't decrement id ref count (file write failed, filename = '{path}',"
        " file descriptor = 3, errno = 28, error message = 'No space left')"
    )


def no_space(folder):
    return collections.namedtuple("usage", "free")(1000)


# What fails, and which file or folder of the run the error names.
FULL = [
    (shutil, "disk_usage", no_space, "backup"),
    (keras.Model, "save_weights", is_full_for_h5, "backup/1.weights.h5"),
    (pathlib.Path, "write_bytes", is_full, "history.json"),
]


@pytest.mark.once
@pytest.mark.parametrize("owner, name, fails, named", FULL)
def test_a_disk_that_is_full(
    owner, name, fails, named, data_folder, tmp_path, monkeypatch, capsys
):
    recipe = SMALL["vision"]
    monkeypatch.setattr(recipes, "load", lambda name: recipe)
    command = ["train", recipe.name, "--data", str(data_folder)]
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(SystemExit) as end:
        main([*command, "--runs", str(tmp_path)])
    said, run = end.value.code, tmp_path / recipe.name / "seed-0"
    assert said.startswith("error: [Errno 28] No space left") and (
        said.endswith(f"'{run / named}'") and "\n" not in said
    )
    assert "Traceback" not in capsys.readouterr().err
    assert not [path.name for path in run.rglob("*") if "part" in path.name]


@pytest.mark.once
def test_a_state_that_is_missing_or_damaged(data_folder, tmp_path):
    recipe = SMALL["vision"]
    (tmp_path / "history.json").write_text('[{"epoch": 0, "seconds": 1}]')
    with pytest.raises(DataError, match="1.weights.h5 is missing"):
        train.train(recipe, tmp_path, 0, data_folder)
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "1.weights.h5").write_bytes(b"x")
    with pytest.raises(DataError, match="1.weights.h5 is no state of this"):
        train.train(recipe, tmp_path, 0, data_folder)

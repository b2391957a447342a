"""What ships is what was trained, in half precision, and is on record."""

import h5py
import numpy as np
import pytest

from keras_moe.models import MoEViTImageClassifier
from tests.zoo.test_train import SMALL
from tests.zoo.test_train import data_folder as data_folder
from zoo import evaluate
from zoo import pack
from zoo import results
from zoo import train


@pytest.mark.once
def test_pack_and_record(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    runs, target = tmp_path / "runs", tmp_path / "presets"
    run = runs / "seed-1"
    train.train(SMALL, run, 1, data_folder, epochs=1)
    with pytest.raises(results.ResultError, match="no evaluated run"):
        results.record(SMALL, runs)
    evaluate.evaluate(
        SMALL, run / "preset", data_folder, run / "evaluation.json"
    )
    packed = pack.pack(SMALL, run, data_folder, target)
    recorded = results.record(SMALL, runs, packed)
    assert recorded == results.load(SMALL.name)
    assert recorded["preset"]["seed"] == 1
    assert recorded["seeds"] == {
        "1": pytest.approx(packed["accuracy"], abs=0.1)
    }
    assert results.record(SMALL, runs)["preset"] == packed  # is kept

    folder = target / SMALL.name
    assert [p.name for p in target.iterdir()] == [SMALL.name]
    with h5py.File(folder / "model.weights.h5") as file:
        kinds = set()
        file.visititems(lambda _, item: kinds.add(getattr(item, "dtype", None)))
    assert np.dtype("float16") in kinds
    loaded = MoEViTImageClassifier.from_preset(str(folder))
    assert loaded.compute_dtype == "float32"

    monkeypatch.setattr(pack, "LIMIT", 1000)
    with pytest.raises(results.ResultError, match="would take"):
        pack.pack(SMALL, run, data_folder, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())

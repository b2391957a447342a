"""What ships is what was trained, in half precision, and is on record."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from keras_moe.models import MoEViTImageClassifier
from tests.zoo.test_train import SMALL
from tests.zoo.test_train import data_folder as data_folder
from zoo.measure import evaluate
from zoo.measure import results
from zoo.publish import card
from zoo.publish import pack
from zoo.training import train
from zoo.training import transition


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
    # Another preset of a seed on record leaves the seeds, whatever `runs` has.
    other = packed | {"bytes": 1}
    (run / "evaluation.json").unlink()
    again = results.record_preset(SMALL, runs, other)
    assert again == results.load(SMALL.name) == recorded | {"preset": other}
    with pytest.raises(results.ResultError, match="no evaluated run"):
        results.record_preset(SMALL, runs, packed | {"seed": 77})
    path = run / "training.json"
    changed = json.loads(path.read_text()) | {"steps": 7}
    path.write_text(json.dumps(changed))
    with pytest.raises(results.ResultError, match="with steps 7, and is rec"):
        results.record_preset(SMALL, runs, packed)

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
    assert not (tmp_path / "other").exists()


@pytest.mark.once
def test_train_further_and_pack(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    run = tmp_path / "runs" / "seed-1"
    with pytest.raises(results.ResultError, match="no trained preset lies in"):
        transition.further(SMALL, run, 2, 1e-3)
    train.train(SMALL, run, 1, data_folder, epochs=1)
    first = MoEViTImageClassifier.from_preset(str(run / "preset"))
    on = dataclasses.replace(SMALL, further={"erase": 0.5})
    seen = []
    monkeypatch.setattr(
        transition,
        "train",
        lambda recipe, *rest: seen.append(recipe) or train.train(recipe, *rest),
    )
    preset = transition.further(on, run, 2, 1e-3, 1, data_folder)
    assert [(one.erase, one.learning_rate) for one in seen] == [(0.5, 1e-3)]
    assert preset == run / "further" / "preset"
    history = json.loads((run / "further" / "history.json").read_text())
    assert len(history) == 2
    # It started from what was trained before, and went on.
    begun = json.loads((run / "history.json").read_text())
    assert history[0]["loss"] < begun[0]["loss"]
    second = MoEViTImageClassifier.from_preset(str(preset))
    moved = [
        float(np.abs(a.numpy() - b.numpy()).max())
        for a, b in zip(first.weights, second.weights)
    ]
    assert 0 < max(moved) < 0.2

    packed = pack.pack(
        SMALL, run, data_folder, tmp_path / "to", "further/preset"
    )
    assert packed["further"]["epochs"] == 2
    assert packed["further"]["learning_rate"] == 1e-3
    evaluate.evaluate(
        SMALL, run / "preset", data_folder, run / "evaluation.json"
    )
    with pytest.raises(results.ResultError, match="further .*evaluate .*--fur"):
        results.record_further(SMALL, run.parent)
    evaluate.evaluate(
        SMALL, preset, data_folder, run / "further" / "evaluation.json"
    )
    with pytest.raises(results.ResultError, match="nothing is recorded of"):
        results.record_further(SMALL, run.parent)
    record = results.record(SMALL, run.parent, packed)
    both = results.record_further(SMALL, run.parent)
    further = both["further"]
    assert both == record | {"further": further} == results.load(SMALL.name)
    assert results.record(SMALL, run.parent) == both  # is kept
    assert further["training"]["1"] == packed["further"]
    assert further["mean"] == pytest.approx(packed["accuracy"], abs=0.1)
    text = card.render(on, record)
    assert "this preset, in half precision, trained further" in text
    assert "| their erase | 0.5 |" in text
    command = f"zoo further {SMALL.name} --seed 1 --epochs 2 --learning-rate"
    assert f"python -m {command} 0.001" in text
    assert "| further epochs | 2 |" in text

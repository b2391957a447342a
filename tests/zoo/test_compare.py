"""A recipe beside its twin: figures read off at equal steps, equal time."""

import dataclasses
import json

import pytest

from zoo import recipe as recipes
from zoo.measure import compare
from zoo.measure import results
from zoo.publish import table
from zoo.tasks.vision import VISION

pytestmark = pytest.mark.once

SOFT = dataclasses.replace(
    recipes.load("soft_moe_vit_tiny_fashion_mnist"), epochs=4
)
OURS = {0: [0.5, 0.6, 0.7, 0.8], 1: [0.5, 0.7, 0.8, 0.9]}
THEIRS = {0: [0.4, 0.5, 0.6, 0.7], 1: [0.4, 0.5, 0.6, 0.8]}
TEST = {"ours": {0: 0.81, 1: 0.85}, "theirs": {0: 0.70, 1: 0.72}}


def put_run(folder, figure, curve):
    folder.mkdir(parents=True)
    history = [{"epoch": e, "val_accuracy": v} for e, v in enumerate(curve)]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "evaluation.json").write_text(json.dumps({"accuracy": figure}))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(compare, "FIGURES", tmp_path / "figures")
    folder = tmp_path / "runs"
    for seed, curve in OURS.items():
        put_run(folder / SOFT.name / f"seed-{seed}", TEST["ours"][seed], curve)
    for seed, curve in THEIRS.items():
        run = folder / SOFT.twin / f"seed-{seed}"
        put_run(run, TEST["theirs"][seed], curve)
    (tmp_path / "results").mkdir()
    return folder


def put_ratio(ratio):
    path = results.path_of(f"step_time_{SOFT.name}_torch")
    path.write_text(json.dumps({"ratio": ratio}))


@pytest.mark.parametrize(
    "ratio, ours, theirs",
    [
        (1.0, 0.85, 0.75),  # both at their last epoch
        (2.0, 0.65, 0.75),  # ours half-way
        (0.625, 0.85, 0.55),  # the twin after 2.5 of 4 epochs
    ],
)
def test_figures_at_equal_time(runs, ratio, ours, theirs):
    put_ratio(ratio)
    found = compare.compare(SOFT, runs)
    assert found["equal_time"]["mean"] == pytest.approx(ours)
    assert found["equal_time"]["twin_mean"] == pytest.approx(theirs)
    assert found["equal_time"]["margin"] == pytest.approx(ours - theirs)


def test_equal_steps_record_picture_and_table(runs):
    put_ratio(1.1)
    found = compare.write(SOFT, runs)
    steps = found["equal_steps"]
    assert steps["mean"] == pytest.approx(0.83)
    assert steps["margin"] == pytest.approx(0.12)
    assert steps["standard_deviation"] == pytest.approx(0.02 * 2**0.5)
    assert results.load(compare.name_of(SOFT)) == found
    # A block more against slots that mix: nearly the same work.
    assert found["flops"] == pytest.approx(found["twin_flops"], rel=0.2)
    assert found["flops"] != found["twin_flops"]
    picture = compare.FIGURES / f"{SOFT.name}.png"
    first = picture.read_bytes()
    compare.write(SOFT, runs)
    assert picture.read_bytes() == first
    assert "| 0.8300 ± 0.0283 | 0.7100 ± 0.0141 | +0.1200 |" in table.render()


def test_smaller_is_better_for_texts(runs, monkeypatch):

    put_ratio(1.0)
    monkeypatch.setattr(VISION, "higher_is_better", False)
    found = compare.compare(SOFT, runs)
    assert found["equal_steps"]["margin"] == pytest.approx(-0.12)


def test_what_is_missing_is_said(runs, tmp_path):
    with pytest.raises(results.ResultError, match="step times .* zoo step-"):
        compare.compare(SOFT, runs)
    put_ratio(1.0)
    with pytest.raises(results.ResultError, match="no evaluated run of soft_"):
        compare.compare(SOFT, tmp_path)
    with pytest.raises(recipes.RecipeError, match="vit_tiny.* has no twin"):
        compare.compare(recipes.load(SOFT.twin), runs)


def test_better_is_by_more_than_twice_the_spread():
    def found(margin, spread, twin_spread):
        steps = {
            "standard_deviation": spread,
            "twin_standard_deviation": twin_spread,
        }
        time = {"margin": margin}
        return compare.is_better({"equal_steps": steps, "equal_time": time})

    assert found(0.05, 0.01, 0.02)
    assert not found(0.03, 0.01, 0.02)
    assert not found(0.05, None, None)

"""Ways of choosing are trained, compared with top-k and put on record."""

import pytest

from keras_moe.layers.expert_router import SELECTIONS
from tests.zoo.test_text import plays as plays
from tests.zoo.test_variants import MIXED
from tests.zoo.test_variants import SMALL
from zoo.measure import results
from zoo.training import selections
from zoo.training import variants

pytestmark = pytest.mark.once


def test_they_are_trained_and_recorded(plays, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    results.FOLDER.mkdir()
    monkeypatch.setattr(variants, "SMALL_TEXT", SMALL)
    monkeypatch.setattr(
        selections, "LENGTH", {"steps_per_epoch": 3, "epochs": 2}
    )
    found = selections.run(MIXED, tmp_path / "runs", plays)
    assert found == results.load("selections_mot_tiny_shakespeare")
    assert tuple(found) == SELECTIONS
    for selection, one in found.items():
        assert len(one["validation"]) == len(one["training"]) == 2
        assert len(one["load"]) == 2 and len(one["load"][0]) == 8
        assert (one["differ"] == 0) == (selection == "top_k")
        for fact in ("max_load", "dropped"):
            assert [len(block) for block in one[fact]] == [2, 2]
        for block, shares in zip(one["max_load"], one["load"]):
            expected = 8 * max(shares) / sum(shares)
            assert block[-1] == pytest.approx(expected, abs=1e-3)
    assert found["top_k"]["load"][0] == [0.125] * 8

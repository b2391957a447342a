"""Other numbers of experts: as costly, trained, on record, in the text."""

import pathlib

import pytest

import zoo
from tests.zoo.test_pairs import SMALL
from tests.zoo.test_pairs import folder as folder
from zoo import recipe as recipes
from zoo.measure import results
from zoo.publish import card as cards
from zoo.publish import drawings
from zoo.publish import table
from zoo.training import pair_variants
from zoo.training import train
from zoo.training import variants

pytestmark = pytest.mark.once

PAGE = pathlib.Path(zoo.__file__).parents[1] / "guides/site/pages/two_towers.md"
RECIPE = recipes.load(drawings.RECIPE)


def test_experts_cost_as_much():
    own = RECIPE.backbone["router_options"]
    assert own["num_experts"] * own["slots_per_expert"] == pair_variants.SLOTS
    for number in pair_variants.NUMBERS[RECIPE.name]:
        one = pair_variants.variant(RECIPE, number)
        options = one.backbone.pop("router_options")
        assert options["num_experts"] == number != own["num_experts"]
        assert number * options["slots_per_expert"] == pair_variants.SLOTS
        rest = {**RECIPE.backbone}
        del rest["router_options"]
        assert one.backbone == rest


def test_they_are_trained_once_and_recorded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    results.FOLDER.mkdir()
    monkeypatch.setitem(pair_variants.NUMBERS, SMALL.name, (1, 2))
    monkeypatch.setattr(pair_variants, "SLOTS", 2)
    found = pair_variants.run(SMALL, tmp_path / "runs", folder)
    assert list(found) == ["1 expert of 2 slots", "2 experts of 1 slot"]
    one, two = found.values()
    assert one["parameters"] < two["parameters"]
    assert abs(one["flops"] / two["flops"] - 1) < 0.01
    for record in (one, two):
        assert 0 <= record["recall_at_1"] <= record["recall_at_5"] <= 1
        assert len(record["validation"]) == SMALL.epochs
    assert found == results.load(variants.name_of(SMALL))
    # What is trained already is not trained again.
    monkeypatch.setattr(train.keras.Model, "fit", None)
    assert pair_variants.run(SMALL, tmp_path / "runs", folder) == found


@pytest.mark.parametrize(
    "mean, relation", [(0.4, "less"), (0.5, "more"), (0.2, "more")]
)
def test_the_text_compares_further_training(mean, relation, monkeypatch):
    def record(*seeds):
        return {
            "seeds": {str(n): value for n, value in enumerate(seeds)},
            "mean": sum(seeds) / len(seeds),
            "standard_deviation": 0.02,
            "more": {str(n): {"recall_at_5": v} for n, v in enumerate(seeds)},
            "training": {"0": {"steps": 5000}},
        }

    twin = {"further": record(0.37, 0.39)}
    monkeypatch.setattr(results, "load", lambda name: twin)
    ours = {"further": record(mean - 0.01, mean + 0.01)}
    text = drawings.longer(ours, table._markdown)
    assert "5,000 further steps" in text
    assert f"the twin's by {mean - 0.38:+.4f}.\nThat is {relation} than" in text
    assert f"{mean:.4f} ± 0.0200 | {mean:.4f} ± 0.0141 | 2 |" in text
    for lone in ({}, {"further": record(0.4)}):
        assert drawings.longer(lone, table._markdown) == ""


def test_the_text_says_what_is_on_record():
    found = results.load(variants.name_of(RECIPE))
    numbers = pair_variants.NUMBERS[RECIPE.name]
    assert list(found) == [pair_variants.title(number) for number in numbers]
    record = results.load(RECIPE.name)
    text = drawings.numbers_of_experts(record, table._markdown)
    assert "all figures of recall@1 lie within two" in text
    assert "multiply as many numbers" in text
    flops = results.load(f"comparison_{RECIPE.name}")["flops"]
    for one in found.values():
        away = abs(one["recall_at_1"] - record["mean"])
        assert away < 2 * record["standard_deviation"]
        assert abs(one["flops"] / flops - 1) < 0.01
        assert f"| {one['recall_at_1']:.4f} |" in text
    page = " ".join(PAGE.read_text().split())
    one, two, four, eight = (
        f"{figures['recall_at_1']:.4f}" for figures in found.values()
    )
    assert (
        f"held out is {one} with 1 expert, {two} with 2, {four} with 4 and "
        f"{eight} with 8 (one seed each)."
    ) in page
    assert f"it is {cards.spread(record)} (three seeds)" in page

"""Variants differ in their router alone, are trained and put on record."""

import dataclasses
import json

import pytest

from tests.zoo.test_text import plays as plays
from zoo import recipe as recipes
from zoo.measure import compare
from zoo.measure import results
from zoo.publish import table
from zoo.training import train
from zoo.training import variants

pytestmark = pytest.mark.once

MIXED = recipes.load("mot_tiny_shakespeare")
SMALL = {
    "backbone": {
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 256,
    },
    "batch_size": 16,
    "steps_per_epoch": 3,
    "epochs": 2,
}


def test_variants_cost_what_the_dense_model_costs():
    for name in variants.VARIANTS[MIXED.name]:
        one = variants.small(MIXED, name)
        if one.backbone["router"] is None:
            continue
        options = one.backbone["router_options"]
        multiplied = options["num_experts"] * options["intermediate_dim"]
        assert multiplied == one.backbone["mlp_dim"] * options["group_size"]
        assert one.batch_size % options["group_size"] == 0
    domains = recipes.load("moe_lm_tiny_domains")
    for name, options in variants.VARIANTS[domains.name].items():
        small = variants.small(domains, name)  # as long as the recipe
        assert dataclasses.replace(small, backbone=domains.backbone) == domains
        one = options.get("router_options", {})
        chosen = {
            "token_choice": one.get("top_k"),
            "expert_choice": one.get("capacity_factor"),
        }.get(options["router"])
        if chosen is not None:
            assert chosen * one["intermediate_dim"] == 256


def test_they_are_trained_once_and_recorded(plays, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    results.FOLDER.mkdir()
    monkeypatch.setattr(variants, "SMALL_TEXT", SMALL)
    mixture = variants.mixture(4, 2)
    chosen = {"dense": {"router": None}, "4 experts": mixture}
    monkeypatch.setitem(variants.VARIANTS, MIXED.name, chosen)
    found = variants.run(MIXED, tmp_path / "runs", plays)
    assert list(found) == ["dense", "4 experts"]
    assert found["4 experts"]["parameters"] > found["dense"]["parameters"]
    for one in found.values():
        assert len(one["training"]) == len(one["validation"]) == 2
    assert found == results.load(variants.name_of(MIXED))

    # What is trained already is not trained again.
    monkeypatch.setattr(train.keras.Model, "fit", None)
    assert variants.run(MIXED, tmp_path / "runs", plays) == found

    soft = {"preset": {"accuracy": 0.5}}
    path = results.path_of("soft_moe_vit_tiny_fashion_mnist")
    path.write_text(json.dumps(soft))
    last = found["4 experts"]["validation"][-1]
    assert f"{last:.4f} |\n" in table.reasons()


def test_text_about_narrow_models_says_what_is_on_record():
    name = "{}_vit_narrow_fashion_mnist"
    soft, choice = (
        results.load(compare.name_of(recipes.load(name.format(router))))
        for router in ("soft_moe", "expert_choice")
    )
    said = " ".join(table.reasons().split())
    assert "There Soft MoE is better than the dense twin." in said
    assert compare.is_better(soft)
    assert "less than twice the spread" in said
    steps = choice["equal_steps"]
    spread = max(steps["standard_deviation"], steps["twin_standard_deviation"])
    for equal in ("equal_steps", "equal_time"):
        assert 0 < choice[equal]["margin"] < 2 * spread


def test_recipes_without_variants_are_refused(tmp_path):
    with pytest.raises(recipes.RecipeError, match="NAME must be one of mot_"):
        variants.run(recipes.load("gpt_tiny_shakespeare"), tmp_path)

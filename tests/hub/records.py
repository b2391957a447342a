"""Results as if they had been measured, for cards, tables and publishing."""

import pytest

from keras_moe.models.presets import manifest
from zoo import recipe as recipes
from zoo.publish import picture

REPO = "someone/mot"
TEXT = recipes.load("mot_tiny_shakespeare")
VISION = recipes.load("soft_moe_vit_tiny_fashion_mnist")
MIXING = {
    "group": {"bits_per_byte": 2.1234, "time": 1.0},
    "self": {"bits_per_byte": 2.3456, "time": 1.25},
}


def record_of(recipe, metric, value):
    """A record in the form that `zoo.measure.results` writes."""
    training = {"epochs": 8, "seconds": 600, "backend": "jax"}
    if recipe is TEXT:  # not in the first records
        training["steps"] = 2000
    training |= {"keras": "3.13.0", "keras_moe": "0.1.0"}
    return {
        "recipe": recipe.name,
        "data": recipe.data,
        "metric": metric,
        "test_examples": 10000,
        "parameters": 1234567,
        "seeds": {"0": value, "1": value + 0.01},
        "mean": value + 0.005,
        "standard_deviation": 0.0071,
        "training": {"0": training, "1": training},
        "preset": {"seed": 1, metric: value, "of": "preset", "bytes": 2500000},
    }


PICTURE = b"what the routers do"


@pytest.fixture(autouse=True)
def recorded(records, monkeypatch):
    """Results of two recipes and of inference_mixing, in their own folder."""
    # Folders here hold no model.
    monkeypatch.setattr(picture, "draw", lambda recipe, preset: PICTURE)
    folder = records
    for recipe, metric, value in (
        (TEXT, "bits_per_byte", 2.5),
        (VISION, "accuracy", 0.91),
    ):
        content = record_of(recipe, metric, value)
        manifest.write_json(folder / f"{recipe.name}.json", content)
    manifest.write_json(folder / f"mixing_{TEXT.name}.json", MIXING)
    return folder

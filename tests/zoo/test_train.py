"""Recipes train, go on where they were broken off, and are evaluated."""

import dataclasses
import gzip
import json
import shutil

import keras
import numpy as np
import pytest

from keras_moe.models import MoEViTImageClassifier
from zoo import recipe as recipes
from zoo.__main__ import main
from zoo.data import datasets
from zoo.measure import evaluate
from zoo.measure import results
from zoo.tasks import task_of
from zoo.tasks.vision import VISION
from zoo.training import train

SOFT = recipes.load("soft_moe_vit_tiny_fashion_mnist")
SMALL = dataclasses.replace(
    SOFT,
    backbone={
        **SOFT.backbone,
        "patch_size": 14,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 16,
        "moe_layers": (0,),
        "router_options": {"num_experts": 2, "slots_per_expert": 2},
    },
    epochs=2,
    batch_size=40,
    learning_rate=1e-2,
    erase=0.3,
)


def idx(array):
    axes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + axes + array.tobytes()


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Four IDX files: a class is told by the row that is bright."""
    monkeypatch.setattr(datasets, "VALIDATION", 40)
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 240), ("t10k", 60)):
        labels = rng.integers(0, 10, n).astype("u1")
        images = rng.integers(0, 40, (n, 28, 28)).astype("u1")
        images[np.arange(n), 4 + 2 * labels] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array)))
    return folder


@pytest.mark.once
def test_trains_and_is_evaluated(data_folder, tmp_path):
    run = tmp_path / "seed-3"
    train.train(SMALL, run, 3, data_folder)
    history = json.loads((run / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [0, 1]
    assert history[1]["loss"] < history[0]["loss"]
    shutil.rmtree(run / "preset")  # and once more: only that
    train.train(SMALL, run, 3, data_folder)
    record = run / "evaluation.json"
    result = evaluate.evaluate(SMALL, run / "preset", data_folder, record)
    assert result["images"] == 60
    found = evaluate.summary(tmp_path, "accuracy")
    assert found == {3: result["accuracy"]}


def test_every_recipe_makes_its_model():
    shapes = {}
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipe.name == name
        task = task_of(recipe)
        part = task.noise(recipe, np.random.default_rng(0))
        made = task.build(recipe, part)
        shapes[name] = made.count_params()
        outputs = {
            "vision": (None, 10),
            "text": (None, None, 257),
            "pairs": [(None, 128), (None, 128)],
        }
        assert made.output_shape == outputs[recipe.task]
        assert recipe.twin is None or recipe.twin in recipes.names()
    # What ships in the package; a parameter takes two bytes.
    ship = (
        "moe_lm_tiny_domains",
        "soft_moe_vit_tiny_fashion_mnist",
        "soft_moe_two_tower_tiny_emoji",
        "mot_tiny_shakespeare",
    )
    assert sum(shapes[name] for name in ship) < 7.7e6


def test_scale_starts_where_the_recipe_says():
    made = VISION.build(dataclasses.replace(SMALL, initial_scale=6.0), None)
    (scale,) = [w for w in made.weights if w.path.endswith("moe/scale")]
    assert float(keras.ops.convert_to_numpy(scale)) == 6.0


def test_batches_follow_from_seed_and_epoch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (80, 28, 28, 1)).astype("u1")
    labels = np.arange(80) % 10

    def batch(seed, epoch, first=0):
        batches = VISION.batches((images, labels), SMALL, seed, 5, first)
        assert len(batches) == 2 * (5 - first)
        return batches[2 * (epoch - first) + 1]

    for first in (1, 3):  # where a run goes on
        np.testing.assert_array_equal(batch(0, 3)[0], batch(0, 3, first)[0])
    assert not np.array_equal(batch(0, 3)[0], batch(0, 4)[0])
    assert not np.array_equal(batch(0, 3)[0], batch(1, 3)[0])
    assert batch(0, 0)[0].min() >= -1 and batch(0, 0)[0].max() <= 1


def test_command_line_names_what_is_wrong(tmp_path, capsys):
    main(["list"])
    assert "soft_moe_vit_tiny_fashion_mnist: Soft MoE" in (
        capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match="NAME must be one of"):
        main(["train", "gpt"])
    with pytest.raises(SystemExit, match="dataset-fashion-mnist"):
        main(["train", SOFT.name, "--data", str(tmp_path)])


@pytest.mark.once
def test_a_router_is_turned_and_tuned(
    data_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    main(
        # More steps than an epoch of these images has.
        ["turn", SOFT.name, "--router", "expert_choice", "--steps", "5"]
        + ["--options", '{"capacity_factor": 1.0}']
        + ["--data", str(data_folder), "--runs", str(tmp_path / "runs")]
    )
    written = json.loads(
        (tmp_path / f"turned_{SOFT.name}_expert_choice.json").read_text()
    )
    assert f"accuracy: {written['before']:.4f} before" in (
        capsys.readouterr().out
    )
    folder = tmp_path / "runs" / SOFT.name / "turned-expert_choice"
    (entry,) = json.loads(folder.with_suffix(".json").read_text())
    assert 0 < entry["loss"] < 10
    turned = MoEViTImageClassifier.from_preset(str(folder))
    assert turned.backbone.router == "expert_choice"
    assert turned.backbone.router_options == written["router_options"] | {
        "num_experts": 16
    }

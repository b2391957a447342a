"""Presets on the Hub that are what was measured."""

import json

import pytest
from huggingface_hub import ModelCard

from keras_moe.models.presets import catalogue
from keras_moe.models.presets import manifest
from tests.hub.records import PICTURE
from tests.hub.records import REPO
from tests.hub.records import TEXT
from tests.hub.records import VISION
from tests.hub.records import recorded as recorded
from tests.hub.server import Fault
from zoo.__main__ import main
from zoo.data import datasets
from zoo.errors import PublishError
from zoo.publish import card as cards
from zoo.publish import hub as publish
from zoo.publish import picture
from zoo.publish import table
from zoo.tasks import task_of

pytestmark = pytest.mark.once


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
    manifest.write_manifest(folder)
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
    manifest.write_manifest(folder)
    commits = run("--yes")
    assert len(commits) == 3
    del commits[2]["README.md"], commits[2][picture.NAME]
    assert commits[2] == files_of(folder)
    said = capsys.readouterr().out
    assert "(to be changed)" in said
    assert "=            2 bytes  config.json" in said


def test_verify(run, hub, folder, capsys, monkeypatch):
    run("--yes")
    monkeypatch.setattr(task_of(TEXT), "model_class", Loads)
    verify = ["verify", TEXT.name, "--repo", REPO, "--preset", str(folder)]
    main(verify)
    commit, _ = hub.find(REPO, "main")
    said = capsys.readouterr().out
    assert f"3 files of hf://someone/mot@{commit} are those" in said
    (folder / "config.json").write_bytes(b"{ }")
    manifest.write_manifest(folder)
    with pytest.raises(SystemExit, match="differs from .* in config.json"):
        main(verify)
    hub.push(REPO, {**hub.repos[REPO][-1], "model.weights.h5": b"x"})
    with pytest.raises(SystemExit, match="model.weights.h5 .*it has 1"):
        main(verify)
    hub.push(REPO, {"config.json": b"{}"})
    with pytest.raises(
        SystemExit, match="keras_moe.json is no readable JSON file"
    ):
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
    (folder / manifest.MANIFEST).unlink()
    with pytest.raises(SystemExit, match=f"has no {manifest.MANIFEST}"):
        run("--yes")
    manifest.write_manifest(folder)
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
    manifest.write_manifest(folder)
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
    manifest.write_manifest(folder)
    plan = publish.plan(TEXT.name, folder, REPO, card)
    hub.push(REPO, hub.repos[REPO][-1])
    with pytest.raises(PublishError, match="412.*changed meanwhile"):
        publish.upload(plan, "Change it")
    assert len(hub.repos[REPO]) == 3


def test_a_preset_that_does_not_ship(monkeypatch):
    monkeypatch.setattr(catalogue, "embedded", list)
    with pytest.raises(SystemExit, match="does not ship with the package"):
        main(["publish", TEXT.name, "--repo", REPO])

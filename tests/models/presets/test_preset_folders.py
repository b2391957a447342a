"""Folders that presets are written to: what is replaced, and what stays."""

import json
import os
import pathlib

import keras
import pytest

from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoTCausalLM
from keras_moe.models import MoTTokenizer
from keras_moe.models.presets import folders
from keras_moe.models.presets import manifest as manifests
from tests.models import language_support
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import make_preprocessor

pytestmark = pytest.mark.once

OTHERS = {
    ".git/config": b"[core]",
    ".git/objects/ab/cd": b"blob",
    ".gitattributes": b"*.h5 filter=lfs",
    "README.md": b"# A card",
    "assets/picture.png": b"pixels",
    "model.safetensors": b"weights of others",
    "notes/thesis.tex": b"years of work",
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def kept(folder, others=OTHERS):
    found = files_of(folder)
    assert {n: found.get(n) for n in others} == others
    listed = manifests.read_manifest(folder)
    assert set(found) == {*others, *listed, manifests.MANIFEST}


def refused(target, *texts, model=None, **arguments):
    before = files_of(target)
    with pytest.raises(ValueError) as raised:
        (model or make_backbone("dense")).save_to_preset(target, **arguments)
    for text in ("must be new, empty or a preset", *texts):
        assert text in str(raised.value), str(raised.value)
    assert files_of(target) == before


@pytest.fixture
def preset(tmp_path):
    """A preset of a task, among others' files."""
    folder = tmp_path / "model"
    make_classifier("dense", pixels=True).save_to_preset(folder)
    write(folder, OTHERS)
    return folder


def test_what_is_not_the_presets_stays(preset):
    """Of the preset, what the new one lacks goes."""
    assert "task.json" in files_of(preset)
    make_backbone("soft").save_to_preset(preset)
    kept(preset)
    assert not {"task.json", "preprocessor.json"} & set(files_of(preset))
    assert MoEViTBackbone.from_preset(preset).router == "soft"
    assert sorted(p.name for p in preset.parent.iterdir()) == ["model"]


def test_a_repository_before_its_first_model(tmp_path):
    beside = {n: c for n, c in OTHERS.items() if n[0] in ".R"}
    write(tmp_path, {**beside, "LICENSE": b"free"})
    make_backbone("dense").save_to_preset(tmp_path)
    kept(tmp_path, {**beside, "LICENSE": b"free"})


@pytest.mark.parametrize("place", ["empty", "preset", "repository"])
def test_the_working_folder(place, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if place == "preset":
        make_classifier("dense").save_to_preset("../here")
    if place == "repository":
        write(folder, {".git/config": b"[core]"})
    make_backbone("dense").save_to_preset(".")
    # The folder is still the one that the process is in.
    assert {"config.json", "model.weights.h5"} <= set(os.listdir("."))
    MoEViTBackbone.from_preset(".")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_somebody_elses_preset(tmp_path):
    """As KerasHub writes one, with files of the same names."""
    theirs = {
        "config.json": b'{"registered_name": "theirs"}',
        "task.json": b"{}",
        "model_00000.weights.h5": b"theirs",
        "tokenizer.json": b"{}",
        "assets/tokenizer/vocabulary.txt": b"theirs",
    }
    write(tmp_path, {**OTHERS, **theirs})
    refused(tmp_path, "holds ", "overwrite=True")
    refused(tmp_path, "overwrite=True", model=make_classifier("dense"))
    make_backbone("dense").save_to_preset(tmp_path, overwrite=True)
    kept(tmp_path)
    MoEViTBackbone.from_preset(tmp_path)


def test_files_that_the_manifest_does_not_list(preset):
    (preset / "task.weights.h5").write_bytes(b"mine, better")
    write(preset, {"tokenizer.json": b"mine"})
    refused(preset, "tokenizer.json", "overwrite=True")
    make_backbone("dense").save_to_preset(preset, overwrite=True)
    kept(preset)
    # A name that only a user gives: not even then.
    write(preset, {"better.weights.h5": b"mine"})
    for overwrite in (False, True):
        refused(preset, "better.weights.h5, not of its", overwrite=overwrite)


@pytest.mark.parametrize(
    "name", ["../outside", ".git/config", "README.md", "link/secret"]
)
def test_a_manifest_that_lists_what_is_not_its_own(name, tmp_path):
    folder = tmp_path / "model"
    make_backbone("dense").save_to_preset(folder)
    write(folder, {".git/config": b"mine", "README.md": b"mine"})
    write(tmp_path, {"outside": b"mine", "elsewhere/secret": b"mine"})
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    path = folder / manifests.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 4, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    before = files_of(tmp_path)
    if name in ("../outside", "link/secret"):
        with pytest.raises(ValueError, match="own folder|leads elsewhere"):
            make_backbone("dense").save_to_preset(folder)
        assert files_of(tmp_path) == before
    else:
        make_backbone("dense").save_to_preset(folder)
    assert (folder / name).read_bytes() == b"mine"


def test_a_manifest_that_cannot_be_read(preset):
    path = preset / manifests.MANIFEST
    path.write_text('{"format": 99, "files": {}}')
    before = files_of(preset)
    with pytest.raises(ValueError, match="has format 99"):
        make_backbone("dense").save_to_preset(preset)
    assert files_of(preset) == before
    make_backbone("dense").save_to_preset(preset, overwrite=True)
    kept(preset)


class Stopped(BaseException):
    """As if the user had pressed a key."""


@pytest.mark.parametrize("manifest", [True, False])
def test_whole_or_not_at_all(manifest, preset, monkeypatch):
    """Whichever file cannot be put in place, all are as they were."""
    if not manifest:
        (preset / manifests.MANIFEST).unlink()
    before = files_of(preset)
    rename, calls = pathlib.Path.rename, []

    def fail(self, place):
        calls.append(place)
        if len(calls) == limit:
            raise Stopped
        return rename(self, place)

    model, limit = make_backbone("dense"), 0
    monkeypatch.setattr(pathlib.Path, "rename", fail)
    while True:
        limit, calls[:] = limit + 1, []
        try:
            model.save_to_preset(preset, overwrite=True)
            break
        except Stopped:
            assert files_of(preset) == before, limit
    assert limit > 10
    kept(preset)


def test_a_process_that_is_killed(preset, monkeypatch):
    """Whenever: no model is read from files of two presets."""
    rename = pathlib.Path.rename
    (preset / "task.json").write_text((preset / "task.json").read_text() + " ")
    manifests.write_manifest(preset)  # lists the others too

    def states(self, place):
        # The hidden folder holds what is yet to come, and what was there.
        state = files_of(preset)
        seen.append({n: c for n, c in state.items() if n[:7] != ".model."})
        return rename(self, place)

    seen, old = [], files_of(preset)
    monkeypatch.setattr(pathlib.Path, "rename", states)
    make_backbone("soft").save_to_preset(preset)
    monkeypatch.undo()
    new = files_of(preset)
    mixed = [state for state in seen if state != old]
    assert len(mixed) > 10
    for number, state in enumerate(mixed):
        if manifests.MANIFEST not in state:  # all of the new files are there
            assert state.items() <= new.items()
            continue
        write(preset.parent / str(number), state)
        with pytest.raises(ValueError, match="lacks|must have|sum|does not"):
            manifests.check_manifest(preset.parent / str(number))


@pytest.mark.once
def test_an_error_leaves_no_new_folder_behind(tmp_path):
    """Of the folders above, those that were there and those in use stay."""
    (tmp_path / "there").mkdir()
    for target in ("there/new/model", "new/deep/model", "model"):
        with (
            pytest.raises(Stopped),
            folders.replacing(tmp_path / target) as part,
        ):
            part.mkdir()
            raise Stopped
        assert [p.name for p in tmp_path.rglob("*")] == ["there"]
    with (
        pytest.raises(Stopped),
        folders.replacing(tmp_path / "new" / "model") as part,
    ):
        (tmp_path / "new" / "mine").write_text("mine")
        raise Stopped
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine"]


def test_a_folder_called_part(tmp_path):
    """Its name says nothing; it gets a manifest as others do."""
    folder = tmp_path / "model.part"
    write(tmp_path, {"model.part/thesis.tex": b"years of work"})
    refused(folder, "thesis.tex")
    make_backbone("dense").save_to_preset(tmp_path / "new.part")
    assert (tmp_path / "new.part" / manifests.MANIFEST).is_file()


# === Parts of a preset ===


def test_a_part_is_put_into_a_preset(preset):
    """The manifest fits again, and nothing else has changed."""
    before = files_of(preset)
    make_preprocessor((8, 8, 3)).save_to_preset(preset)
    after = files_of(preset)
    changed = {n for n in after if after[n] != before.get(n)}
    parts = {"preprocessor.json", "image_converter.json"}
    assert changed == {*parts, manifests.MANIFEST} and set(after) == set(before)
    model = MoEViTImageClassifier.preprocessor_cls.from_preset(preset)
    assert model.image_converter.image_size == (8, 8)
    manifests.check_manifest(preset)


def test_a_part_alone(tmp_path):
    tokenizer = MoTTokenizer.byte_level()
    tokenizer.save_to_preset(tmp_path / "new")
    assert "tokenizer.json" in files_of(tmp_path / "new")
    # Beside others' files; over one of theirs only where told.
    write(tmp_path, {"thesis.tex": b"mine"})
    tokenizer.save_to_preset(tmp_path)
    write(tmp_path, {"tokenizer.json": b"mine"})
    refused(tmp_path, "assets/tokenizer", "overwrite=True", model=tokenizer)
    tokenizer.save_to_preset(tmp_path, overwrite=True)
    assert json.loads((tmp_path / "tokenizer.json").read_text())
    assert (tmp_path / "thesis.tex").read_bytes() == b"mine"


def test_a_task_writes_the_files_of_its_parts(tmp_path):
    language_support.make_causal().save_to_preset(tmp_path / "text")
    listed = manifests.read_manifest(tmp_path / "text")
    assert {"tokenizer.json", "assets/tokenizer/vocabulary.json"} <= set(listed)
    assert isinstance(MoTCausalLM.from_preset(tmp_path / "text"), keras.Model)


def test_put_takes_no_file_for_a_folder(tmp_path):
    write(tmp_path, {"part/a": b"1", "old/a/b": b"mine"})
    with pytest.raises(ValueError, match="holds a, which no manifest lists"):
        folders.put(tmp_path / "part", tmp_path / "old")
    assert files_of(tmp_path / "old") == {"a/b": b"mine"}

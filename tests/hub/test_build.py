"""Presets from published checkpoints, here small ones from the loopback."""

import dataclasses
import json
import pathlib

import pytest
from huggingface_hub import ModelCard

from keras_moe.models import MoTBackbone
from keras_moe.models.presets import manifest
from tests.conversion import texts
from tests.hub.server import Fault
from zoo.__main__ import main
from zoo.publish import sources
from zoo.publish import table

MOT = sources.SOURCES["mixture_of_tokens_573m"]
VMOE = sources.SOURCES["vmoe_s32_last2_imagenet_384"]
FOLDER = texts.GOLDEN / "ckpt" / "G_vmoe_tokenchoice_params_released_style"
CHECKPOINT = FOLDER / "ckpt_2"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """`python -m zoo build` of a source, changed; returns the preset."""

    def build(source, **fields):
        changed = dataclasses.replace(source, **fields)
        monkeypatch.setitem(sources.SOURCES, source.name, changed)
        out = tmp_path / "out" / "preset"
        main(["build", source.name, "--out", str(out)])
        return out

    return build


@pytest.fixture
def published(hub, tmp_path):
    """The small model in the `mot` format, on the Hub."""
    folder = texts.write_mot(tmp_path / "in")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.push("someone/mot", files)
    return hub, folder


FIELDS = {
    "address": "hf://someone/mot",
    "parameters": sum(array.size for array in texts.arrays().values()),
}


def test_mixture_of_tokens(published, build, tmp_path, capsys):
    hub, folder = published
    out = build(MOT, **FIELDS)
    assert "parameters, from hf://someone/mot" in capsys.readouterr().out
    manifest.check_manifest(out)
    texts.equal(MoTBackbone.from_preset(out), MoTBackbone.from_preset(folder))
    record = json.loads((out / "conversion.json").read_text())
    assert record["licence"] == "apache-2.0"
    assert record["address"] == "hf://someone/mot"
    assert record["revision"] == hub.find("someone/mot", "main")[0]
    assert [path.name for path in out.parent.iterdir()] == ["preset"]


@pytest.mark.parametrize(
    "fault, says",
    [
        (Fault("/revision/main", status=404), "404"),
        (Fault("/model.safetensors", status=503), "model.safetensors"),
        (Fault("/model.safetensors", cut=9), "model.safetensors"),
        (Fault("/model.safetensors", alter=True), "model.safetensors"),
        (Fault("/config.json", alter=True), "config.json"),
        (None, "must have 7 parameters"),
    ],
)
def test_refused(fault, says, published, build, tmp_path):
    published[0].faults = [fault] if fault else []
    fields = FIELDS if fault else {**FIELDS, "parameters": 7}
    with pytest.raises(SystemExit, match=f"error: .*{says}"):
        build(MOT, **fields)
    assert not list(tmp_path.glob("out/*")) + list(tmp_path.glob("out/.*"))


def test_vmoe(build, tmp_path, capsys):
    """As from `gs://`, but from the store of local files."""
    fields = {"address": CHECKPOINT.as_uri(), "parameters": 0}
    with pytest.raises(SystemExit, match="must have 0 parameters") as raised:
        build(VMOE, **fields)
    found = int(str(raised.value).split()[-1].rstrip(".").replace(",", ""))
    out = build(VMOE, **{**fields, "parameters": found})
    record = json.loads((out / "conversion.json").read_text())
    names = {path.name for path in FOLDER.glob("ckpt_2.*")}
    assert set(record["files"]) == names
    assert record["options"] == {"top_k": 2, "capacity_factor": 1.5}
    lost = pathlib.Path("/nowhere/at/all").as_uri()
    with pytest.raises(SystemExit, match="error: file:///nowhere.* has no"):
        build(VMOE, address=lost)


def test_a_converted_preset_is_published(published, build, capsys, records):
    hub, _ = published
    out = build(MOT, **FIELDS)
    given = [MOT.name, "--repo", "else/mot", "--preset", str(out)]
    main(["publish", *given, "--yes"])
    files = dict(hub.repos["else/mot"][-1])
    text = files.pop("README.md").decode()
    assert files == {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    data = ModelCard(text).data
    assert data.model_name == MOT.name and data.license == "apache-2.0"
    assert data.base_model == "someone/mot"
    digest = json.loads((out / "conversion.json").read_text())["files"]
    for part in (
        "Converted from `hf://someone/mot`",
        hub.find("someone/mot", "main")[0],
        f"| `model.safetensors` | `{digest['model.safetensors']}` |",
        'MoTCausalLM.from_preset("hf://else/mot")',
        "keras_hub.models.CausalLM.from_preset",
        "python -m conversion mot hf://someone/mot",
        "arXiv:2310.15961",
    ):
        assert part in text, text
    main(["verify", *given])
    assert "hf://else/mot@" in capsys.readouterr().out
    main(["publish", *given, "--yes"])
    assert len(hub.repos["else/mot"]) == 2
    listed = json.loads(table.CATALOGUE.read_text())[MOT.name]
    assert listed["places"]["hub"] == "hf://else/mot"

    # Without licence or source it is not published.
    path = out / "conversion.json"
    record = json.loads(path.read_text())
    for key in ("licence", "address"):
        path.write_text(json.dumps({**record, key: "not stated"}))
        manifest.write_manifest(out)
        with pytest.raises(SystemExit, match=f"error: {key} in .*not stated"):
            main(["publish", *given, "--yes"])
    path.unlink()
    manifest.write_manifest(out)
    with pytest.raises(SystemExit, match="has no conversion.json"):
        main(["publish", *given, "--yes"])
    assert len(hub.repos["else/mot"]) == 2


def test_names_and_commands(capsys):
    with pytest.raises(SystemExit, match="NAME must be one of mixture_of"):
        main(["build", "gpt"])
    main(["list"])
    said = capsys.readouterr().out
    for source in sources.SOURCES.values():
        assert f"{source.name}: {source.title} (from {source.address})" in said
    assert MOT.command == (
        "python -m conversion mot hf://jaszczur/mixture_of_tokens "
        "mixture_of_tokens_573m --licence apache-2.0"
    )
    assert "--top-k 2 --capacity-factor 1.5" in VMOE.command

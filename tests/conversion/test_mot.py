"""The `mot` format, by the command line and on the fly, gives its logits."""

import json
import os
import signal

import huggingface_hub
import keras
import numpy as np
import pytest

from conversion import streaming
from conversion.__main__ import main
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from keras_moe.models.presets import manifest
from tests.conversion import texts

FOLDER = texts.GOLDEN / "mot"
PUBLISHED = sorted(p.name for p in FOLDER.iterdir())


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory):
    """A published model through the command line, and what it should give."""
    out = tmp_path_factory.mktemp("mot") / "preset"
    main(["mot", str(FOLDER / request.param), str(out)])
    model = MoTCausalLM.from_preset(out)
    with np.load(FOLDER / request.param / "expected.npz") as expected:
        wanted = {key: expected[key] for key in expected.files}
    return FOLDER / request.param, model, wanted


def test_logits(published):
    _, model, wanted = published
    ids, mask = wanted["token_ids"], wanted["attention_mask"]
    for key, *inputs in (
        ("logits", ids),
        ("logits_masked", ids, mask),
        ("logits_first_row_alone", ids[:1]),
    ):
        found = texts.logits(model.backbone, *inputs)
        np.testing.assert_allclose(found, wanted[key], atol=2e-4, err_msg=key)


def test_greedy_continuation_with_a_cache(published):
    _, model, wanted = published
    model.compile(sampler="greedy")
    prompt = wanted["prompt"]
    missing = wanted["greedy"].shape[1] - prompt.shape[1]
    mask = np.pad(np.ones_like(prompt), ((0, 0), (0, missing)))
    prompt = np.pad(prompt, ((0, 0), (0, missing)))
    found = model.generate(
        {"token_ids": prompt, "padding_mask": mask}, stop_token_ids=None
    )
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found["token_ids"]), wanted["greedy"]
    )


def test_on_the_fly(published):
    """The folder itself is read into the very same model."""
    folder, model, _ = published
    found = MoTCausalLM.from_preset(folder)
    assert found.preprocessor is None
    texts.equal(found.backbone, model.backbone)


@pytest.mark.once
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(streaming, "note_parameters", interrupted)
    out = tmp_path / "new" / "out"
    with pytest.raises(SystemExit, match="130"):
        main(["mot", str(FOLDER / PUBLISHED[0]), str(out)])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        f"interrupted; {out} is unchanged or complete; the same command starts "
        "again"
    )
    assert not list(tmp_path.iterdir())


# === Forms of the format ===


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return MoTBackbone.from_preset(
        texts.write_mot(tmp_path_factory.mktemp("plain") / "in")
    )


def _twice(tensors):
    head = tensors["transformer.wte.weight"].copy()
    return {**tensors, "lm_head.weight": head}


def _head_only(tensors):
    """The one array of a tied model, by the head's name."""
    tensors = dict(tensors)
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    return tensors


FORMS = {
    "no prefix": {"tensors": texts.bare(texts.arrays())},
    "no prefix, shards": {"tensors": texts.bare(texts.arrays()), "shards": 2},
    "no prefix, tied head too": {"tensors": texts.bare(_twice(texts.arrays()))},
    "no prefix, masks": {
        "tensors": {
            **texts.bare(texts.arrays()),
            "h.0.attn.bias": np.ones((1, 1, 6, 6), "uint8"),
        }
    },
    "embedding by the head's name": {"tensors": _head_only(texts.arrays())},
    "the same, tied by config": {
        "tensors": _head_only(texts.arrays()),
        "config": {"tie_word_embeddings": True},
    },
    "the same without a prefix": {
        "tensors": texts.bare(_head_only(texts.arrays()))
    },
    "shards": {"shards": 3},
    "tied head too": {"tensors": _twice(texts.arrays())},
    "defaults": {
        "config": dict.fromkeys(("vocab_size", "n_inner", "n_expert"), ...)
        | {"expert_size": 3}
    },
    "masks of GPT-2's time": {
        "tensors": {
            **texts.arrays(),
            "transformer.h.0.attn.bias": np.ones((1, 1, 6, 6), "uint8"),
            "transformer.h.0.attn.masked_bias": np.full((1,), -1e4),
        }
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, plain, tmp_path):
    folder = texts.write_mot(tmp_path / "in", **FORMS[form])
    texts.equal(MoTBackbone.from_preset(folder), plain)


def test_command_on_other_names(plain, tmp_path):
    tensors = texts.bare(_head_only(texts.arrays()))
    source = texts.write_mot(tmp_path / "in", tensors=tensors)
    main(["mot", str(source), str(tmp_path / "out")])
    texts.equal(MoTCausalLM.from_preset(tmp_path / "out").backbone, plain)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["arrays"] == len(tensors) and record["left_out"] == []


def test_head_of_its_own_and_half_precision(plain, tmp_path, capsys):
    tensors = {**_twice(texts.arrays())}
    tensors["lm_head.weight"] = 2 * tensors["lm_head.weight"]
    half = {key: value.astype("float16") for key, value in tensors.items()}
    source = texts.write_mot(
        tmp_path / "in", {"tie_word_embeddings": False}, half, shards=2
    )
    main(["mot", str(source), str(tmp_path / "out"), "--licence", "mine"])
    assert "tie_embeddings: False" in capsys.readouterr().out
    model = MoTCausalLM.from_preset(tmp_path / "out")
    published = MoTCausalLM.from_preset(source, dtype="float32")
    texts.equal(published.backbone, model.backbone)
    found = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    assert {array.dtype.name for array in found.values()} == {"float32"}
    np.testing.assert_array_equal(
        found["token_embedding/reverse_embeddings"],
        half["lm_head.weight"].astype("float32").T,
    )
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["licence"] == "mine" and record["arrays"] == len(half)
    assert record["files"] == {
        path.name: manifest.digest(path) for path in source.iterdir()
    }


# === Tokenizers, and the Hub ===


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository of the Hub with a tokenizer; returns what was asked for."""
    folder = tmp_path / "snapshots" / "0123abc"
    asked = []

    def snapshot_download(name, revision=None):
        asked.append((name, revision))
        return str(folder)

    texts.write_mot(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return folder, asked


@pytest.mark.parametrize("kind", ["pair", "whole"])
def test_repository_with_a_tokenizer(kind, hub, plain, tmp_path):
    folder, asked = hub
    texts.write_tokenizer(folder, kind)
    out = tmp_path / "out"
    main(["mot", "hf://someone/mot@v1", str(out)])
    converted = MoTCausalLM.from_preset(out)
    model = MoTCausalLM.from_preset("hf://someone/mot@v1")
    assert set(asked) == {("someone/mot", "v1")}
    for found in (converted, model):
        texts.equal(found.backbone, plain)
        assert found.preprocessor.sequence_length == 6
        ids = found.preprocessor.tokenizer(["ab abcd", "cd<|endoftext|>"])
        assert [list(row) for row in ids] == [[6, 8, 7], [7, 10]]
    record = json.loads((out / "conversion.json").read_text())
    assert record["source"] == "hf://someone/mot@v1"
    assert record["revision"] == "0123abc"
    assert set(record["files"]) == {p.name for p in folder.iterdir()}


def test_arguments_of_from_preset(plain, tmp_path):
    folder = texts.write_mot(tmp_path / "in")
    fresh = MoTBackbone.from_preset(folder, load_weights=False, dropout=0.5)
    assert fresh.dropout == 0.5
    assert not np.array_equal(
        *(keras.ops.convert_to_numpy(m.weights[0]) for m in (fresh, plain))
    )
    model = MoTCausalLM.from_preset(folder, backbone=fresh, preprocessor=None)
    assert model.backbone is fresh
    longer = MoTCausalLM.from_preset(
        folder, max_sequence_length=8, vocabulary_size=12, preprocessor=None
    ).backbone
    for path, shape in (
        ("token_embedding/embeddings", (12, 4)),
        ("position_embedding/embeddings", (8, 4)),
    ):
        old, new = (
            keras.ops.convert_to_numpy(w)
            for m in (plain, longer)
            for w in m.weights
            if w.path == path
        )
        assert new.shape == shape
        np.testing.assert_array_equal(new[: len(old)], old)


# === Comparing ===


@pytest.mark.parametrize("wrong", ["", "logits", "logits_masked", "shape"])
def test_verify(wrong, tmp_path, capsys):
    source, out = FOLDER / "G_hf_mot_plain", tmp_path / "out"
    with np.load(source / "expected.npz") as expected:
        arrays = {key: expected[key] for key in expected.files}
    if wrong == "shape":
        arrays["logits"] = arrays["logits"][:, 1:]
    elif wrong:
        arrays[wrong] = arrays[wrong] + 1e-3
    np.savez(tmp_path / "expected.npz", **arrays)
    given = ["--verify", str(tmp_path / "expected.npz")]
    if not wrong:
        main(["mot", str(source), str(out), *given])
        assert "logits differ from logits_masked by" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit, match="error: .*--verify .*: "):
        main(["mot", str(source), str(out), *given])
    assert [p.name for p in tmp_path.iterdir()] == ["expected.npz"]

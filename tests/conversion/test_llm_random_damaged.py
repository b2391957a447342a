"""Damaged and foreign .pt files, missing options: an error, no output."""

import io
import os
import pathlib
import pickle
import types
import zipfile

import numpy as np
import pytest
import torch

from conversion import llm_random
from conversion.__main__ import main
from conversion.errors import ConversionError
from tests.conversion.test_llm_random import SAVED
from tests.conversion.test_llm_random import load
from tests.conversion.test_llm_random import write

pytestmark = pytest.mark.once

STATE, _ = load(SAVED)
BLOCK = "encoder.blocks.block_0.block.residual_"
MLP = f"{BLOCK}feedforward.layer.feedforward."
OPTIONS = {
    "model_type": "gpt",
    "num_heads": 4,
    "group_size": 4,
    "sparsity_dim": 0,
    "temperature": 1.0,
    "emit_softmax_over": "tokens",
}


def refused(source, match, **options):
    out = pathlib.Path(source).parent / "out" / "preset"
    options = llm_random.Options(**{**OPTIONS, **options})
    with pytest.raises(ConversionError, match=match) as raised:
        llm_random.convert_llm_random(
            source, out, options, say=lambda line: None
        )
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return str(raised.value)


# === Pickles ===


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return open, (str(self.proof), "w")


class Own:
    """A class of the one who wrote the file."""


FOREIGN = {
    "in the model": lambda b: {"model": {**STATE, "more": b}},
    "beside the model": lambda b: {"model": STATE, "logger": b},
    "in a namespace": lambda b: {
        "model": STATE,
        "loss": types.SimpleNamespace(acc=b),
    },
    "as a key": lambda b: {"model": STATE, "step": {(1, b): 2}},
    "alone": lambda b: b,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", FOREIGN)
def test_foreign_classes_are_refused_and_not_run(place, zipped, tmp_path):
    proof, file = tmp_path / "proof", tmp_path / "2.pt"
    torch.save(
        FOREIGN[place](Bomb(proof)),
        file,
        _use_new_zipfile_serialization=zipped,
    )
    said = refused(file, "not only tensors and plain values")
    assert "open" in said and said.endswith("Nothing of it was executed.")
    assert "weights_only" not in said  # no advice to run it after all
    assert not proof.exists()


def test_the_proof_would_have_been_there(tmp_path):
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Bomb(proof))).close()
    assert proof.exists()


@pytest.mark.parametrize("value", [Own(), Own, np.float64, os.getcwd])
def test_other_objects_are_refused(value, tmp_path):
    torch.save({"model": STATE, "step": value}, tmp_path / "2.pt")
    refused(tmp_path / "2.pt", "not only tensors and plain values")


def test_plain_pickle(tmp_path):
    proof = tmp_path / "proof"
    content = pickle.dumps({"model": Bomb(proof)}, protocol=2)
    (tmp_path / "2.pt").write_bytes(content)
    refused(tmp_path / "2.pt", "2.pt is ")
    assert not proof.exists()


# === Files ===


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9, 0.999])
def test_truncated(kept, tmp_path):
    file = tmp_path / "2.pt"
    write(file, STATE)
    content = file.read_bytes()
    kept = kept if isinstance(kept, int) else int(len(content) * kept)
    file.write_bytes(content[:kept])
    refused(file, "2.pt is ")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
def test_flipped_bytes(member, seed, tmp_path):
    """Inside the pickle or a tensor, they are seen by a check sum."""
    buffer = io.BytesIO()
    write(buffer, STATE)
    content = bytearray(buffer.getvalue())
    with zipfile.ZipFile(buffer) as archive:
        info = next(
            i for i in archive.infolist() if i.filename.endswith(member)
        )
        start = bytes(content).index(archive.read(info))
    rng = np.random.default_rng(seed)
    place = start + int(rng.integers(info.file_size))
    content[place] ^= int(rng.integers(1, 256))
    (tmp_path / "2.pt").write_bytes(bytes(content))
    refused(tmp_path / "2.pt", "is no whole file of torch.save")


CONTENTS = {
    "a list": ([1, 2], "holds a list"),
    "another dictionary": ({"step": 3}, "holds the keys .'step'"),
    "no weights": ({"model": {}}, "state dictionary 'model'"),
    "numbers": ({"model": {"head.weight": 3}}, "'head.weight' is int"),
    "sparse": (
        {"model": {"head.weight": torch.eye(3).to_sparse()}},
        "must be a dense tensor",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents(kind, tmp_path):
    content, match = CONTENTS[kind]
    torch.save(content, tmp_path / "2.pt")
    refused(tmp_path / "2.pt", match)


def test_no_file(tmp_path):
    refused(tmp_path / "2.pt", "is no file")
    with pytest.raises(SystemExit, match="error: .*is no file"):
        main(["llm-random", str(tmp_path / "2.pt"), str(tmp_path / "out")])


# === Weights ===


def _without(*names):
    return {k: v for k, v in STATE.items() if not k.startswith(names)}


def _with(name, tensor):
    return {**STATE, name: tensor}


ROPE = f"{BLOCK}attention.layer.attention.rope.sin"
WEIGHTS = {
    "no head": (_without("head"), "head.weight must have 2 axes"),
    "no blocks": (_without("encoder"), "blocks 0, 1"),
    "a block short": (_without("encoder.blocks.block_0"), r"it has \[1\]"),
    "a tensor short": (
        _without(f"{BLOCK}attention.layer.pre_norm.bias"),
        "missing .*pre_norm.bias",
    ),
    "a tensor more": (
        _with("extra.bias", torch.zeros(3)),
        "not used .'extra.bias'",
    ),
    "another wrapper": (
        {f"wrapped.{k}": v for k, v in STATE.items()},
        "embedding_layer.layers.0.weight must have",
    ),
    "another shape": (
        _with(f"{MLP}lin2", torch.zeros(8, 24, 48)),
        "lin2 has the shape .*experts/down/kernel",
    ),
    "unlike blocks": (
        _with(f"{MLP}lin1", torch.zeros(8, 24, 47)),
        "blocks with experts, must be alike",
    ),
    "integers": (
        _with("head.weight", torch.zeros(61, 24, dtype=torch.int32)),
        "must hold floating-point numbers",
    ),
    "not finite": (
        _with("head.weight", torch.full((61, 24), torch.nan)),
        "head.weight of .*2.pt holds numbers that are not finite",
    ),
    "no positions": (
        _without("embedding_layer.layers.1"),
        "models without positions are not offered",
    ),
    "other rotary tables": (
        {**_without("embedding_layer.layers.1"), ROPE: torch.ones(12, 6)},
        "does not hold rotary positions",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(kind, tmp_path):
    state, match = WEIGHTS[kind]
    refused(write(tmp_path / "2.pt", state), match)


# === Options ===


def test_all_missing_options_are_named(tmp_path):
    said = refused(
        write(tmp_path / "2.pt", STATE), "give", **dict.fromkeys(OPTIONS)
    )
    for option in OPTIONS:
        assert f"--{option.replace('_', '-')} " in said


def test_missing_options_of_expert_choice(tmp_path):
    state, _ = load("F4_expert_choice")
    options = dict.fromkeys(OPTIONS, None)
    said = refused(write(tmp_path / "2.pt", state), "give", **options)
    for option in ("topk-fraction F", "softmax-over", "group-by-batch"):
        assert f"--{option}" in said
    assert "--group-size" not in said


LEARNED = {name: torch.ones(1) for name in (f"{MLP}temperature_merge",)} | STATE
WRONG = [
    (STATE, {"num_heads": 5}, "--num-heads must divide 24"),
    (STATE, {"topk_fraction": 0.5}, "--topk-fraction is not of this"),
    (STATE, {"learned_temperature": "plain"}, "--learned-temperature is not"),
    (STATE, {"group_size": 0}, "--group-size must be a positive integer"),
    (LEARNED, {}, "give --learned-temperature"),
    (LEARNED, {"learned_temperature": "plain"}, "--temperature must be left"),
]


@pytest.mark.parametrize("state, options, match", WRONG)
def test_option_that_does_not_fit(state, options, match, tmp_path):
    refused(write(tmp_path / "2.pt", state), match, **options)


def test_help_explains_each_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["llm-random", "--help"])
    said = capsys.readouterr().out
    for option in vars(llm_random.Options()):
        assert f"--{option.replace('_', '-')}" in said

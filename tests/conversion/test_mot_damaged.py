"""Damaged and foreign folders in the `mot` format: an error, no output."""

import json
import pickle

import numpy as np
import pytest

from conversion import mot
from conversion.__main__ import main
from conversion.errors import ConversionError
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from tests.conversion import texts

pytestmark = pytest.mark.once

BLOCK = "transformer.h.0."
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
ARRAYS = texts.arrays()


@pytest.fixture
def source(tmp_path):
    return tmp_path / "in"


def refused(source, match):
    out = source.parent / "out" / "preset"
    with pytest.raises(ConversionError, match=match):
        mot.convert_mot(source, out, say=lambda line: None)
    assert not out.parent.exists() or not list(out.parent.iterdir())


# === Files ===


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.999])
def test_truncated(kept, source):
    texts.write_mot(source)
    path = source / "model.safetensors"
    content = path.read_bytes()
    kept = kept if isinstance(kept, int) else int(len(content) * kept)
    path.write_bytes(content[:kept])
    refused(source, "model.safetensors is no whole safetensors file")


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_of_the_header(seed, source):
    texts.write_mot(source)
    path = source / "model.safetensors"
    content = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(seed)
    content[int(rng.integers(length))] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(content))
    # A flip that leaves JSON changes a name.
    match = "missing .'transformer.ln_f.weight'.*not used .'traxsformer"
    if seed != 3:
        match = "model.safetensors is no whole safetensors file"
    refused(source, match)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return open, (str(self.proof), "w")


def test_only_pickled_weights(source, tmp_path):
    texts.write_mot(source)
    (source / "model.safetensors").unlink()
    proof = tmp_path / "proof"
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(proof)))
    refused(source, r"pickled \.bin files, are not read")
    with pytest.raises(ValueError, match="are not read"):
        MoTCausalLM.from_preset(source)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof))).close()
    assert proof.exists()  # so it would have been seen


def _renamed(name):
    def change(places):
        return {**places, "transformer.wte.weight": name}

    return change


INDICES = {
    "above": (_renamed("../model.safetensors"), "may only name"),
    "absolute": (_renamed("/tmp/model.safetensors"), "may only name"),
    "backslash": (_renamed("..\\model.safetensors"), "may only name"),
    "pickle": (_renamed("pytorch_model.bin"), "may only name"),
    "number": (_renamed(3), "may only name"),
    "missing shard": (_renamed("other.safetensors"), "lacks its shard other"),
    "other shard": (
        lambda p: dict.fromkeys(p, SHARD),
        f"{SHARD} lacks transformer",
    ),
    "unknown tensor": (
        lambda p: {**p, "transformer.more": SHARD},
        "lacks transformer.more",
    ),
    "forgotten tensor": (
        lambda p: dict(list(p.items())[1:]),
        "does not place there",
    ),
    "empty": (lambda p: {}, "must map tensors to files"),
    "list": (list, "must map tensors to files"),
}


@pytest.mark.parametrize("kind", INDICES)
def test_index_that_does_not_fit(kind, source):
    change, match = INDICES[kind]
    texts.write_mot(source, shards=2)
    index = json.loads((source / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (source / INDEX).write_text(json.dumps(index))
    refused(source, match)


NO_INDEX = {
    "{": "json is no readable JSON file",
    "[]": r"json must hold a JSON object; it holds \[\]",
    "{}": "json must map tensors to files",
    '{"weight_map": null}': "json must map tensors to files",
}


@pytest.mark.parametrize("text", NO_INDEX)
def test_index_that_is_none(text, source):
    texts.write_mot(source, shards=2)
    (source / INDEX).write_text(text)
    refused(source, f"{INDEX[:-5]}.{NO_INDEX[text]}")


# === Configurations ===

CONFIGS = [
    ({"model_type": "gpt2"}, "model_type of .* must be 'mot'; it is 'gpt2'"),
    ({"n_head": 3}, "n_head of config.json must divide n_embd, 4; it is 3"),
    ({"n_head": ...}, "config.json must have n_head"),
    ({"n_head": True}, "n_head of config.json must be an integer"),
    ({"activation_function": "gelu_9"}, "activation_function of config.json"),
    ({"n_expert": 3}, "n_expert of config.json, 3, does not agree"),
    ({"expert_size": 5}, "expert_size of config.json, 5, does not agree"),
    ({"vocab_size": 12}, "vocab_size of config.json, 12, does not agree"),
    ({"n_positions": "6"}, "n_positions of config.json must be an integer"),
    ({"n_layer": 2}, "n_layer of config.json, 2, does not agree"),
    ({"group_size": 0}, "group_size of config.json must be an integer"),
    ({"temperature": 0}, "temperature of config.json must be a finite"),
    ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon of config.json"),
    ({"emit_softmax_over_experts": "no"}, "emit_softmax_over_experts of"),
    ({"scale_attn_weights": False}, "scale_attn_weights of config.json"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings of config.json"),
    ({"tie_word_embeddings": False}, "missing .'lm_head.weight'"),
]


@pytest.mark.parametrize("config, match", CONFIGS)
def test_configuration(config, match, source):
    texts.write_mot(source, config)
    refused(source, match)


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_configuration_that_is_none(text, source):
    texts.write_mot(source)
    (source / "config.json").unlink()
    if text is not None:
        (source / "config.json").write_text(text)
    refused(source, "config.json")


# === Weights ===


def _with(name, array):
    return {**ARRAYS, name: np.asarray(array)}


def _without(name):
    return {k: v for k, v in ARRAYS.items() if k != name}


F32 = np.zeros((4,), "float32")
WEIGHTS = {
    "a tensor short": (_without(f"{BLOCK}ln_2.bias"), "missing .*ln_2.bias"),
    "a tensor more": (_with("extra.bias", F32), "not used .'extra.bias'"),
    "no experts": (_without(f"{BLOCK}mlp.lin1"), "must have .*mlp.lin1"),
    "experts of two axes": (
        _with(f"{BLOCK}mlp.lin1", F32[None]),
        "mlp.lin1 with 3 axes",
    ),
    "another shape": (
        _with(f"{BLOCK}mlp.lin2", np.zeros((2, 4, 3), "float32")),
        "mlp.lin2 has the shape .*experts/down/kernel",
    ),
    "another width": (
        _with(f"{BLOCK}attn.c_attn.weight", np.zeros((4, 13), "float32")),
        "c_attn.weight has the shape",
    ),
    "integers": (
        _with("transformer.ln_f.bias", np.zeros(4, "int32")),
        "must hold floating-point numbers",
    ),
    "not finite": (
        _with("transformer.ln_f.bias", F32 + np.inf),
        "ln_f.bias of .*safetensors holds numbers that are not finite",
    ),
    "a tied head that differs": (
        _with("lm_head.weight", np.zeros((11, 4), "float32")),
        "lm_head.weight must be equal to transformer.wte.weight",
    ),
    "a prefix of one tensor only": (
        _with("ln_f.bias", F32),
        "not used .'ln_f.bias'",
    ),
    "one tensor without its prefix": (
        {**_without("transformer.ln_f.bias"), "ln_f.bias": F32},
        "missing .'transformer.ln_f.bias'., not used .'ln_f.bias'",
    ),
    "no prefix, a tensor more": (
        {**texts.bare(ARRAYS), "extra.bias": F32},
        "not used .'extra.bias'",
    ),
    "no prefix, a tensor short": (
        texts.bare(_without(f"{BLOCK}ln_2.bias")),
        "missing .'h.0.ln_2.bias'",
    ),
    "no prefix, a tied head that differs": (
        {**texts.bare(ARRAYS), "lm_head.weight": np.zeros((11, 4), "float32")},
        "lm_head.weight must be equal to wte.weight",
    ),
    "only a head, of one axis": (
        {**_without("transformer.wte.weight"), "lm_head.weight": F32},
        "must have lm_head.weight with 2 axes",
    ),
    "neither embedding nor head": (
        _without("transformer.wte.weight"),
        "must have transformer.wte.weight with 2 axes; it has no such",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(kind, source):
    tensors, match = WEIGHTS[kind]
    texts.write_mot(source, tensors=tensors)
    refused(source, match)


def test_head_alone_is_no_embedding_of_an_untied_model(source):
    tensors = _without("transformer.wte.weight")
    tensors["lm_head.weight"] = ARRAYS["transformer.wte.weight"]
    texts.write_mot(source, {"tie_word_embeddings": False}, tensors)
    refused(source, "must have transformer.wte.weight with 2 axes")


@pytest.mark.parametrize("kind", ["a tensor short", "not finite"])
def test_weights_on_the_fly(kind, source):
    tensors, match = WEIGHTS[kind]
    texts.write_mot(source, tensors=tensors)
    with pytest.raises(ValueError, match=match):
        MoTBackbone.from_preset(source)


def test_arguments_of_another_model_on_the_fly(source):
    texts.write_mot(source)
    with pytest.raises(ValueError, match="they differ in .'norm/beta'"):
        MoTBackbone.from_preset(source, final_norm=False)


# === Tokenizers ===


def _whole(**changes):
    def change(folder):
        texts.write_tokenizer(folder, "whole")
        path = folder / "tokenizer.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps(content))

    return change


def _pair(name, content):
    def change(folder):
        texts.write_tokenizer(folder)
        (folder / name).write_bytes(content)

    return change


def _lacking(name):
    def change(folder):
        texts.write_tokenizer(folder)
        (folder / name).unlink()

    return change


END = "<|endoftext|>"
TOKENIZERS = {
    "larger": (
        lambda f: texts.write_tokenizer(f, tokens=[*texts.TOKENS, "x"]),
        "ids up to 11; the embedding has 11 rows",
    ),
    "unreadable": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "tokenizer.json is no readable JSON file",
    ),
    "of nothing": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "is no tokenizer of GPT-2's kind",
    ),
    "words": (
        _whole(model={"type": "WordPiece", "vocab": {}}),
        "must have the model BPE",
    ),
    "normalizer": (_whole(normalizer={"type": "NFC"}), "no normalizer; it has"),
    "two ids": (
        _whole(added_tokens=[{"content": "a", "id": 10}]),
        "gives 'a' two ids, 0 and 10",
    ),
    "no UTF-8": (_pair("merges.txt", b"\xff \xfe"), "merges.txt is no"),
    "a list": (_pair("vocab.json", b"[1]"), "must hold a JSON object"),
    "an id of text": (_pair("vocab.json", b'{"a": "1"}'), "must map tokens"),
    "an id twice": (_pair("vocab.json", b'{"a": 1, "b": 1}'), "the same id"),
    "a rule of one": (_pair("merges.txt", b"ab\n"), "merge rule 'ab'"),
    "a rule of others": (_pair("merges.txt", b"a x\n"), "merge rule 'a x'"),
    "no rules": (_lacking("merges.txt"), "has vocab.json and lacks merges"),
    "no tokens": (_lacking("vocab.json"), "has merges.txt and lacks vocab"),
    "no end": (
        lambda f: texts.write_tokenizer(f, tokens=texts.TOKENS[:-1]),
        "endoftext",
    ),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizer(kind, source):
    change, match = TOKENIZERS[kind]
    change(texts.write_mot(source))
    refused(source, match)


# === Sources and outputs ===


def test_source_and_output(source, tmp_path):
    refused(tmp_path / "nowhere", "SOURCE must be a folder or a repository")
    with pytest.raises(SystemExit, match="error: .* cannot be fetched"):
        main(["mot", "hf://no spaces/allowed", str(tmp_path / "out")])
    texts.write_mot(source)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("mine")
    with pytest.raises(ConversionError, match="new, empty or a preset"):
        mot.convert_mot(source, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "text.tex").read_text() == "mine"

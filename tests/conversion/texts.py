"""Language models for the tests of conversions: run, compared, written."""

import json
import pathlib

import keras
import numpy as np
from safetensors.numpy import save_file

from tests.support import BACKEND

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
_COMPILED = {}  # models of one configuration share a program on JAX


def bare(tensors):
    """The same without the prefix that all names but the head's have."""
    return {k.removeprefix("transformer."): v for k, v in tensors.items()}


def logits(backbone, ids, mask=None):
    """Logits (B,N,V) of a backbone for ids and, if given, their mask."""
    mask = np.ones_like(ids) if mask is None else mask
    if BACKEND != "jax":
        return _logits(backbone, *map(keras.ops.convert_to_tensor, (ids, mask)))
    import jax

    key = json.dumps(config_of(backbone), default=str)
    if key not in _COMPILED:

        def run(values, ids, mask):
            pairs = zip(backbone.weights, values)
            with keras.StatelessScope(state_mapping=pairs):
                return _logits(backbone, ids, mask)

        _COMPILED[key] = jax.jit(run)
    values = [weight.value for weight in backbone.weights]
    return np.asarray(_COMPILED[key](values, ids, mask))


def _logits(backbone, ids, mask):
    hidden = backbone({"token_ids": ids, "padding_mask": mask}, training=False)
    found = backbone.token_embedding(hidden, reverse=True)
    return found if BACKEND == "jax" else keras.ops.convert_to_numpy(found)


def config_of(backbone):
    """What a backbone is made of, whatever it is called."""
    config = backbone.get_config()
    return {key: config[key] for key in config if key != "name"}


def equal(one, other):
    """Two backbones are the same, number by number."""
    assert config_of(one) == config_of(other)
    for a, b in zip(one.weights, other.weights):
        assert a.path == b.path
        np.testing.assert_array_equal(
            *map(keras.ops.convert_to_numpy, (a, b)), err_msg=a.path
        )


# === A small model in the `mot` format, whole or not ===

CONFIG = {
    "model_type": "mot",
    "vocab_size": 11,
    "n_positions": 6,
    "n_embd": 4,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 6,
    "n_expert": 2,
    "group_size": 2,
}


def arrays():
    """{name: array} of the weights for `CONFIG`."""
    rng = np.random.default_rng(0)
    block = "transformer.h.0."
    shapes = {
        "transformer.wte.weight": (11, 4),
        "transformer.wpe.weight": (6, 4),
        f"{block}attn.c_attn.weight": (4, 12),
        f"{block}attn.c_attn.bias": (12,),
        f"{block}attn.c_proj.weight": (4, 4),
        f"{block}attn.c_proj.bias": (4,),
        f"{block}mlp.controller": (4, 2),
        f"{block}mlp.lin1": (2, 4, 3),
        f"{block}mlp.lin2": (2, 3, 4),
    }
    for norm in (f"{block}ln_1", f"{block}ln_2", "transformer.ln_f"):
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (4,)
    return {k: rng.standard_normal(s, "float32") for k, s in shapes.items()}


def write_mot(folder, config=None, tensors=None, shards=None):
    """Write a folder in the `mot` format.

    Args:
        folder: to make.
        config: changes of `CONFIG`; a value `...` takes the key away.
        tensors: {name: array}, by default `arrays()`.
        shards: number of files beside an index, or `None` for one file.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **(config or {})}
    config = {k: v for k, v in config.items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = arrays() if tensors is None else tensors
    if shards is None:
        save_file(tensors, folder / "model.safetensors")
        return folder
    places = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / name)
        places.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": places}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return folder


# Eleven tokens, and what they look like in GPT-2's files; "Ġ" is a space.
TOKENS = [*"abcdeĠ", "ab", "cd", "Ġab", "abcd", "<|endoftext|>"]
MERGES = ["a b", "c d", "Ġ ab", "ab cd"]


def write_tokenizer(folder, kind="pair", tokens=TOKENS, merges=MERGES):
    """Write `vocab.json` and `merges.txt` ("pair"), or `tokenizer.json`."""
    ids = {token: number for number, token in enumerate(tokens)}
    if kind == "pair":
        (folder / "vocab.json").write_text(json.dumps(ids))
        text = "\n".join(["#version: 0.2", *merges, ""])
        (folder / "merges.txt").write_text(text)
        return
    end = "<|endoftext|>"
    content = {
        "added_tokens": [{"id": ids.pop(end), "content": end}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {"type": "BPE", "vocab": ids, "merges": merges},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))

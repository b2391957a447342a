"""Language models give the logits, and the texts, of the published codes."""

import json
import pathlib

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from conversion import llm_random_names
from conversion import mot_transformers
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from tests import support

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
PUBLISHED = sorted(p.name for p in (GOLDEN / "mot").iterdir())
MIXTURE = {"num_experts": 8, "group_size": 4, "use_bias": False}
SHARED = {
    "vocabulary_size": 61,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 24,
    "mlp_dim": 96,
    "max_sequence_length": 12,
    "final_norm": False,
    "attention_bias": False,
    "tie_embeddings": False,
    "activation": "relu",
}
# llm-random's models: (size of an expert, more of it, more of the backbone).
# Its Expert Choice model, softmax over tokens of the whole batch and a norm
# behind the experts, cannot be expressed.
LLM_RANDOM = {
    "F4_mot_prenorm_flop_matched": (48, {}, {}),
    "F4_mot_second_half": (12, {}, {"moe_layers": (1,)}),
    "F4_mot_postnorm": (12, {}, {"norm_placement": "post"}),
    "F4_mot_rope_rmsnorm_emit_experts": (
        12,
        {"emit_over_experts": True},
        {"positions": "rotary", "norm": "rms_norm"},
    ),
    "F4_mot_bert_sparsity1": (
        12,
        {"group_axis": "sequence"},
        {"causal": False},
    ),
    "F4_mot_adatemp_positive": (12, {"learn_temperature": True}, {}),
    "F4_mot_dhead_expert_size": (10, {}, {"head_dim": 8}),
}


def fill(backbone, weights):
    """Give the backbone its weights, each exactly once."""
    left = {w.path: w for w in backbone.weights}
    for path, array in weights:
        left.pop(path).assign(array)
    assert not left


def forward(backbone):
    """Logits of ids and, if given, their mask; compiled once for a shape."""

    def run(ids, mask):
        hidden = backbone(
            {"token_ids": ids, "padding_mask": mask}, training=False
        )
        return backbone.token_embedding(hidden, reverse=True)

    compiled = support.compiled(run)

    def call(ids, mask=None):
        return compiled(ids, np.ones_like(ids) if mask is None else mask)

    return call


def published(name):
    """A model in the format of the Hub, and what it should give."""
    folder = GOLDEN / "mot" / name
    config = json.loads((folder / "config.json").read_text())
    arrays = load_file(folder / "model.safetensors")
    shapes = {key: value.shape for key, value in arrays.items()}
    backbone = MoTBackbone(
        **mot_transformers.backbone_arguments(config, shapes)
    )
    used = set()

    def read(key):
        used.add(key)
        return arrays[key]

    fill(
        backbone,
        mot_transformers.weights(read, config["n_layer"], config["n_head"]),
    )
    assert set(arrays) - used <= {"lm_head.weight"}  # tied to wte
    with np.load(folder / "expected.npz") as expected:
        return backbone, {key: expected[key] for key in expected.files}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_format(name):
    backbone, wanted = published(name)
    ids, mask = wanted["token_ids"], wanted["attention_mask"]
    logits = forward(backbone)
    for found, key in (
        (logits(ids), "logits"),
        (logits(ids, mask), "logits_masked"),
        (logits(ids[:1]), "logits_first_row_alone"),
    ):
        np.testing.assert_allclose(found, wanted[key], atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_greedy_continuation_with_a_cache(name):
    backbone, wanted = published(name)
    model = MoTCausalLM(backbone)
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


@pytest.mark.parametrize("name", LLM_RANDOM)
def test_llm_random(name):
    size, router, more = LLM_RANDOM[name]
    options = {**MIXTURE, "intermediate_dim": size, **router}
    backbone = MoTBackbone(router_options=options, **{**SHARED, **more})
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    names = {
        key.removeprefix("state_dict/")
        for key in arrays
        if key.startswith("state_dict/")
    }
    used = set()

    def read(key):
        used.add(key)
        return arrays[f"state_dict/{key}"]

    fill(backbone, llm_random_names.weights(read, names, 2, 4))
    assert {n for n in names - used if not n.endswith("temperature_emit")} <= {
        n for n in names if ".rope." in n
    }
    found = forward(backbone)(arrays["token_ids"])
    np.testing.assert_allclose(found, arrays["logits"], atol=2e-4)

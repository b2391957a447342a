"""llm-random's checkpoints give its logits, by the command line."""

import json
import types

import numpy as np
import pytest
import torch

from conversion.__main__ import main
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from keras_moe.models.layers.batch_choice import BatchExpertChoice
from tests.conversion import texts

CHECKPOINTS = sorted(p.name for p in (texts.GOLDEN / "llm_random").iterdir())
PREFIXES = {
    "G_llmr_ddp": "module.",
    "G_llmr_fp16_scaler_override": "",
    "G_llmr_fsdp": "",
    "G_llmr_plain": "",
    "G_llmr_torch_compile": "_orig_mod.",
}
GPT = "--model-type gpt --num-heads 4 "
MIXTURE = (
    "--group-size 4 --sparsity-dim 0 --temperature 1 --emit-softmax-over tokens"
)
# What the checkpoint does not say of each model.
MODELS = {
    "F4_expert_choice": (
        GPT + "--topk-fraction 0.25 --softmax-over tokens --group-by-batch no"
    ),
    "F4_mot_adatemp_positive": (
        GPT
        + MIXTURE.replace("--temperature 1", "--learned-temperature positive")
    ),
    "F4_mot_bert_sparsity1": (
        (GPT + MIXTURE).replace("gpt", "bert").replace("dim 0", "dim 1")
    ),
    "F4_mot_dhead_expert_size": GPT + MIXTURE,
    "F4_mot_postnorm": GPT + MIXTURE,
    "F4_mot_prenorm_flop_matched": GPT + MIXTURE,
    "F4_mot_rope_rmsnorm_emit_experts": (
        "--model-type gpt " + MIXTURE.replace("tokens", "experts")
    ),
    "F4_mot_second_half": GPT + MIXTURE,
}
SAVED = "F4_mot_prenorm_flop_matched"  # the model that all checkpoints hold


def load(name):
    """A model's state dictionary, and its arrays."""
    with np.load(texts.GOLDEN / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    front = "state_dict/"
    state = {
        key.removeprefix(front): torch.tensor(value)
        for key, value in arrays.items()
        if key.startswith(front)
    }
    return state, arrays


def write(file, state, prefix=""):
    """Write a checkpoint as llm-random does."""
    mean = types.SimpleNamespace(acc=0.0, interval=1)
    content = {
        "model": {f"{prefix}{k}": v for k, v in state.items()},
        "step": 2,
        "training_loop_accumulators": {"loss_accumulators": {"loss": mean}},
    }
    torch.save(content, file)
    return str(file)


def convert(source, out, options):
    main(["llm-random", str(source), str(out), *options.split()])


def test_every_model_and_checkpoint_is_here():
    assert {p.stem for p in texts.GOLDEN.glob("F4_*.npz")} == set(MODELS)
    assert sorted(PREFIXES) == CHECKPOINTS


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_models(name, tmp_path):
    state, wanted = load(name)
    source = write(tmp_path / "2.pt", state, "_orig_mod.module.")
    convert(source, tmp_path / "out", MODELS[name])
    causal = "bert" not in name
    assert (tmp_path / "out" / "task.json").is_file() == causal
    backbone = (
        MoTCausalLM.from_preset(tmp_path / "out").backbone
        if causal
        else MoTBackbone.from_preset(tmp_path / "out")
    )
    assert backbone.causal == causal
    found = texts.logits(backbone, wanted["token_ids"])
    np.testing.assert_allclose(found, wanted["logits"], atol=2e-4)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["prefix"] == "_orig_mod.module."


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_of_checkpoints(name, tmp_path):
    source = texts.GOLDEN / "llm_random" / name / "2.pt"
    convert(source, tmp_path / "out", MODELS[SAVED])
    model = MoTCausalLM.from_preset(tmp_path / "out")
    _, wanted = load(SAVED)
    found = texts.logits(model.backbone, wanted["token_ids"])
    np.testing.assert_allclose(found, wanted["logits"], atol=2e-4)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["prefix"] == PREFIXES[name]


def test_capacity_of_expert_choice_are_those_of_the_reference(tmp_path):
    """An exact half of a token: round(0.05 * 50) is 2, as Python rounds."""
    state, _ = load("F4_expert_choice")
    for name, tensor in state.items():  # six experts, as 0.05 * 4 / 4 is 0.05
        if name.endswith("gating.gate"):
            state[name] = torch.cat([tensor, tensor[:, :2]], 1)
        elif ".expert_inner_function." in name:
            state[name] = torch.cat([tensor, tensor[:2]])
    options = MODELS["F4_expert_choice"].replace("0.25", "0.05")
    convert(write(tmp_path / "2.pt", state), tmp_path / "out", options)
    backbone = MoTCausalLM.from_preset(tmp_path / "out").backbone
    capacities = {
        layer.capacity(50)
        for layer in backbone._flatten_layers()
        if isinstance(layer, BatchExpertChoice)
    }
    assert capacities == {2}

"""Tiny models of KerasHub's families, and one block of each."""

import keras
import keras_hub
import numpy as np
from keras import ops
from keras_hub.src.models.gemma4 import gemma4_decoder_block
from keras_hub.src.models.gpt_oss import gpt_oss_decoder
from keras_hub.src.models.mixtral import mixtral_decoder
from keras_hub.src.models.qwen3_5_moe import qwen3_5_moe_decoder
from keras_hub.src.models.qwen3_moe import qwen3_moe_decoder
from keras_hub.src.models.qwen_moe import qwen_moe_decoder

from tests.support import compiled
from tests.support import numpy
from tests.support import value_and_grads

FAMILIES = {
    "Mixtral": "Mixtral",
    "Qwen1.5-MoE": "QwenMoe",
    "Qwen3-MoE": "Qwen3Moe",
    "Qwen3.5-MoE": "Qwen3_5Moe",
    "gpt-oss": "GptOss",
    "Gemma 4": "Gemma4",
}
EXPERTS, TOP_K, FEATURES, HIDDEN = 8, 2, 8, 4
SHARED = {
    "vocabulary_size": 32,
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": FEATURES,
    "num_experts": EXPERTS,
}
OWN = {
    "Mixtral": {"intermediate_dim": HIDDEN, "top_k": TOP_K},
    "Qwen1.5-MoE": {
        "intermediate_dim": 8,
        "moe_intermediate_dim": HIDDEN,
        "shared_expert_intermediate_dim": 8,
        "top_k": TOP_K,
    },
    "Qwen3-MoE": {
        "intermediate_dim": 8,
        "moe_intermediate_dim": HIDDEN,
        "top_k": TOP_K,
        "head_dim": 4,
        "norm_top_k_prob": True,
    },
    "Qwen3.5-MoE": {
        "head_dim": 8,
        "moe_intermediate_dim": HIDDEN,
        "shared_expert_intermediate_size": 8,
        "top_k": TOP_K,
        "layer_types": ["full_attention"],
        "partial_rotary_factor": 0.5,
    },
    "gpt-oss": {"intermediate_dim": HIDDEN, "top_k": TOP_K, "head_dim": 4},
    "Gemma 4": {
        "intermediate_dim": 8,
        "head_dim": 4,
        "image_size": 16,
        "enable_moe_block": True,
        "expert_intermediate_dim": HIDDEN,
        "num_experts_per_token": TOP_K,
    },
}


def backbone(family, seed=0, dtype=None):
    """A backbone whose weights are all random, biases and scales too."""
    made = getattr(keras_hub.models, FAMILIES[family] + "Backbone")
    made = made(**SHARED, **OWN[family], dtype=dtype)
    randomize(made, seed)
    return made


def task(family, seed=0, dtype=None):
    """A causal language model of token indices, without preprocessor."""
    made = getattr(keras_hub.models, FAMILIES[family] + "CausalLM")
    return made(backbone=backbone(family, seed, dtype), preprocessor=None)


def randomize(layer, seed=0):
    """Random weights, near one for scales and of a spread that counts."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        values = 0.5 * rng.normal(size=weight.shape)
        weight.assign(values + ("scale" in weight.name))


def block(family, dtype="float32"):
    """A built layer with one mixture of experts, and no more if that works."""
    dims = {"hidden_dim": FEATURES, "num_experts": EXPERTS, "dtype": dtype}
    given = {"moe_intermediate_dim": HIDDEN, "top_k": TOP_K, **dims}
    if family == "Mixtral":
        made = mixtral_decoder.MixtralSparseMoeBlock(
            intermediate_dim=HIDDEN, top_k=TOP_K, **dims
        )
    elif family == "Qwen1.5-MoE":
        made = qwen_moe_decoder.QwenSparseMoeBlock(
            shared_expert_intermediate_dim=8, norm_top_k_prob=False, **given
        )
    elif family == "Qwen3-MoE":
        made = qwen3_moe_decoder.Qwen3SparseMoeBlock(
            norm_top_k_prob=True, **given
        )
    elif family == "Qwen3.5-MoE":
        made = qwen3_5_moe_decoder.Qwen3_5MoeSparseMoeBlock(
            shared_expert_intermediate_size=8, **given
        )
    elif family == "gpt-oss":
        made = gpt_oss_decoder.GptOssSparseMoeBlock(
            intermediate_dim=HIDDEN, top_k=TOP_K, **dims
        )
    else:
        made = gemma4_decoder_block.Gemma4TextDecoderBlock(
            intermediate_dim=8,
            head_dim=4,
            num_query_heads=2,
            num_key_value_heads=1,
            enable_moe_block=True,
            expert_intermediate_dim=HIDDEN,
            num_experts_per_token=TOP_K,
            **dims,
        )
    made.build((None, None, FEATURES))
    randomize(made)
    return made


def bank(family, layer):
    """The layer that has the experts' weights."""
    names = {"gpt-oss": "experts", "Gemma 4": "moe_expert_bank"}
    return getattr(layer, names.get(family, "expert_bank"))


def takes_mask(layer):
    """Whether a block has a loss of its own, and takes a mask for it."""
    return "compute_load_balancing_loss" in type(layer).call.__code__.co_names


def call_block(layer, tokens, **options):
    """Of (B,N,D), outputs and scores (T,E), the largest of chosen experts."""
    if not isinstance(layer, gemma4_decoder_block.Gemma4TextDecoderBlock):
        return layer(tokens, **options)
    scores = layer.moe_router(tokens)
    outputs = layer.moe_expert_bank(ops.reshape(tokens, (-1, FEATURES)), scores)
    return ops.reshape(outputs, ops.shape(tokens)), scores


def program(layer, tokens):
    """`call_block` of these tokens, compiled, as a function of all weights."""

    def call(*values):
        with keras.StatelessScope(list(zip(layer.weights, values))):
            return call_block(layer, ops.convert_to_tensor(tokens))

    return compiled(call)


def inputs(family, batch=2, length=5):
    """Token indices, the first ones of the first row padding."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 32, (batch, length)).astype("int32")
    mask = np.ones((batch, length), "int32")
    mask[0, :2] = 0
    found = {"token_ids": tokens, "padding_mask": mask}
    if family == "Gemma 4":
        found["position_ids"] = np.tile(np.arange(length), (batch, 1))
    return found


def derivatives(layer, call, cotangent):
    """Outputs, losses and gradients by path of `call()` in training.

    Everything is computed in one program; losses are a part of the sum whose
    gradients these are.
    """
    variables = layer.trainable_variables

    def value(*values):
        mapping = list(zip(variables, values))
        with keras.StatelessScope(
            state_mapping=mapping, collect_losses=True
        ) as scope:
            outputs = call()
        losses = [ops.cast(one, "float32") for one in scope.losses]
        outputs = ops.cast(outputs, "float32")
        total = ops.sum(outputs * ops.convert_to_tensor(cotangent))
        for one in losses:
            total = total + one
        return total, (outputs, losses)

    (_, (outputs, losses)), grads = value_and_grads(
        value, *(numpy(v.value) for v in variables)
    )
    return outputs, losses, {v.path: g for v, g in zip(variables, grads)}


def close(actual, expected, tolerance=1e-5):
    """Equal up to rounding, relative to the largest entry."""
    assert np.isfinite(actual).all()
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def same(actual, expected, tolerance=1e-5):
    """The same for outputs, losses and gradients of `derivatives`."""
    close(actual[0], expected[0], tolerance)
    assert len(actual[1]) == len(expected[1])
    close(np.array(actual[1]), np.array(expected[1]), tolerance)
    assert set(actual[2]) == set(expected[2])
    for path, gradient in expected[2].items():
        close(actual[2][path], gradient, tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")

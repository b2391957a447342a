"""What `keras_moe.upcycle` refuses, and what it says then."""

import keras_hub
import numpy as np
import pytest

import keras_moe
from keras_moe import models
from tests.upcycling.test_upcycle import GPT
from tests.upcycling.test_upcycle import VIT

pytestmark = pytest.mark.once


def dense():
    return models.MoEViTBackbone(**VIT)


def soft():
    return models.MoEViTBackbone(
        **VIT,
        router="soft",
        router_options={"num_experts": 2, "slots_per_expert": 1},
    )


def gpt(**changes):
    return models.MoTBackbone(**GPT, mlp_dim=12, **{"router": None, **changes})


def quantised():
    model = dense()
    model.quantize("int8")
    return model


def deit():
    return keras_hub.models.DeiTBackbone((8, 12, 3), 4, 1, 2, 8, 12)


def unpooled():
    backbone = keras_hub.models.ViTBackbone(**VIT)
    return keras_hub.models.ViTImageClassifier(backbone, 2, pooling="none")


def biased():
    options = {"num_experts": 2, "capacity_factor": 1, "router_bias": True}
    return models.MoEViTBackbone(
        **VIT, router="expert_choice", router_options=options
    )


def over_the_batch():
    options = {"num_experts": 2, "capacity_factor": 1}
    return gpt(router="batch_expert_choice", router_options=options)


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (deit, {}, "model must be a ViTImageClassifier, ViTBackbone, GPT2Caus"),
        (unpooled, {}, "model must have pooling='token' or 'gap'; received 'n"),
        (quantised, {}, "model must have the weights of its class, neither qu"),
        (
            lambda: "nowhere",
            {},
            "preset must be one of 'moe_lm_tiny_domains', 'mot_tiny_shake",
        ),
        (dense, {"router": "mixture_of_tokens"}, "router must be one of 'soft"),
        (gpt, {"router": "soft"}, "router must be one of 'mixture_of_tokens'"),
        (gpt, {"router": "batch_expert_choice"}, "router must be one of 'mix"),
        (dense, {"num_experts": None}, "num_experts must be an integer of at"),
        (dense, {"layers": "last"}, "layers must be one of 'second_half', 'a"),
        (dense, {"layers": [2]}, "layers must be different indices below num"),
        (dense, {"expert_noise": -1}, "expert_noise must be a finite number"),
        (dense, {"rescale": 1}, "rescale must be True or False; received 1"),
        (dense, {"seed": -1}, "seed must be an integer of at least 0; receiv"),
        (
            dense,
            {"router_options": {"gated": True}},
            "router_options must not say what the experts are, .* gated",
        ),
        (
            dense,
            {"calibration": np.zeros((2, 8, 8, 3))},
            r"calibration must be images of shape \(None, 8, 12, 3\); received",
        ),
        (
            dense,
            {"calibration": np.zeros((1, 8, 12, 3)), "slots": 7},
            "calibration must have as many tokens as there are slots, 14, or",
        ),
        (
            dense,
            {"router": "token_choice", "calibration": np.zeros((1, 8, 12, 3))},
            "calibration must be left out unless router='soft' with normalize",
        ),
        (soft, {"num_experts": None}, "router must be one of 'expert_choice'"),
        (
            soft,
            {"router": "token_choice"},
            "num_experts must be left out where the model has experts already",
        ),
        (
            soft,
            {"router": "token_choice", "num_experts": None, "layers": "all"},
            "layers must be left out where the model has experts already; rec",
        ),
        (
            soft,
            {
                "router": "token_choice",
                "num_experts": None,
                "expert_noise": 0.1,
            },
            "expert_noise must be 0 where the model has experts already; rec",
        ),
        (
            biased,
            {"router": "token_choice", "num_experts": None},
            "model must have a router without bias; received one with router",
        ),
        (
            biased,
            {"router": "expert_choice", "num_experts": None},
            "model must have another router than the one wanted, .*'expert_ch",
        ),
        (
            over_the_batch,
            {"router": "token_choice", "num_experts": None},
            "model must have another router .*router='batch_expert_choice'",
        ),
    ],
)
def test_refused(make, arguments, message):
    arguments = {"router": "soft", "num_experts": 2, **arguments}
    if "slots" in arguments:
        slots = arguments.pop("slots")
        arguments["router_options"] = {"slots_per_expert": slots}
    with pytest.raises(ValueError, match=f"^{message}"):
        keras_moe.upcycle(make(), **arguments)


def test_refuses_presets_of_other_models(tmp_path):
    deit().save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="^model must be a preset of ViTBack"):
        keras_moe.upcycle(tmp_path, "soft", 2)


def test_other_names_of_the_package_are_missing_as_ever():
    with pytest.raises(AttributeError, match="no attribute 'upcycled'"):
        keras_moe.upcycled  # noqa: B018

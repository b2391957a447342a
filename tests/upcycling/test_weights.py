"""A model with experts whose router is turned into another one."""

import keras
import numpy as np
import pytest

import keras_moe
from keras_moe import models
from tests.models import support
from tests.upcycling.test_upcycle import GPT
from tests.upcycling.test_upcycle import IMAGES
from tests.upcycling.test_upcycle import TEXTS
from tests.upcycling.test_upcycle import VIT
from tests.upcycling.test_upcycle import same


def mot(**options):
    backbone = models.MoTBackbone(
        **GPT,
        mlp_dim=12,
        router="mixture_of_tokens",
        moe_layers=(1,),
        router_options={"num_experts": 4, "group_size": 2, **options},
    )
    return support.randomize(backbone)


@pytest.mark.parametrize(
    "learned", [pytest.param(False, marks=pytest.mark.once), True]
)
def test_transition_is_exact_where_weights_sum_over_experts(learned):
    model = mot(
        emit_over_experts=True, temperature=0.5, learn_temperature=learned
    )
    model.inference_mixing = "self"
    if learned:
        value = np.array([0.5, 1.0, 2.0, 0.25])
        model.blocks[1].mlp.emit_temperature.assign(value)
        model.blocks[1].mlp.merge_temperature.assign(1 / value)
    new = keras_moe.upcycle(model, "token_choice", router_options={"top_k": 4})
    assert same(model, new, TEXTS)


@pytest.mark.once
def test_transition_keeps_the_total_weight():
    """Weights over the group: equal once both routers prefer nobody."""
    model = mot()
    kernel = model.blocks[1].mlp.router_kernel
    kernel.assign(np.zeros(kernel.shape))
    model.inference_mixing = "self"
    new = keras_moe.upcycle(model, "token_choice", router_options={"top_k": 4})
    assert same(model, new, TEXTS)


def soft(**changes):
    model = models.MoEViTBackbone(
        **VIT,
        router="soft",
        router_options={
            "num_experts": 3,
            "slots_per_expert": 1,
            "activation": "relu",
            **changes,
        },
    )
    return support.randomize(model)


@pytest.mark.once
@pytest.mark.parametrize("router", ["expert_choice", "token_choice"])
def test_gates_are_the_combine_weights_of_soft_moe(router):
    model = soft()
    block = model.blocks[1]
    block.mlp.scale.assign(6.0)
    block.mlp_norm.gamma.assign(np.ones(8))
    block.mlp_norm.beta.assign(np.zeros(8))
    everybody = {"capacity_factor": 3.0, "top_k": 3}
    name = "capacity_factor" if router == "expert_choice" else "top_k"
    new = keras_moe.upcycle(
        model, router, router_options={name: everybody[name]}
    )
    assert new.blocks[1].mlp.activation is keras.activations.relu
    tokens = keras.random.normal((2, 6, 8))
    tokens = block.mlp_norm(tokens)
    with keras_moe.diagnostics.capture() as plans:
        block.mlp(tokens)
        new.blocks[1].mlp(tokens)
    combines = [
        keras.ops.convert_to_numpy(p.weights()[1]).sum(-1)
        for p in plans.values()
    ]
    np.testing.assert_allclose(*combines, atol=1e-4)


@pytest.mark.once
def test_hard_routers_turn_into_each_other():
    model = models.MoEViTBackbone(
        **VIT,
        router="expert_choice",
        router_options={"num_experts": 3, "capacity_factor": 3.0},
    )
    support.randomize(model)
    new = keras_moe.upcycle(model, "token_choice", router_options={"top_k": 3})
    assert same(model, new, IMAGES)
    assert same(
        new,
        keras_moe.upcycle(
            new, "expert_choice", router_options={"capacity_factor": 3.0}
        ),
        IMAGES,
    )

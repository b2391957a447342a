"""Padding takes no capacity slot, but where a published model mixes it."""

import keras
import numpy as np
import pytest

from keras_moe import models
from keras_moe.models.language.block import RMSNorm
from keras_moe.models.layers.attention import Attention
from tests.models import support

OPTIONS = {
    "expert_choice": {"num_experts": 4, "capacity_factor": 1.0},
    "token_choice": {"num_experts": 4, "top_k": 2},
    "mixture_of_tokens": {"num_experts": 4, "group_size": 2},
}


def backbone(router, causal=False, **options):
    made = models.MoTBackbone(
        vocabulary_size=30,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        max_sequence_length=12,
        causal=causal,
        router=router,
        moe_layers=(0,),
        router_options={**OPTIONS[router], **options},
    )
    return support.randomize(made)


def changed_by_padding(model):
    """Largest change at tokens when other ids stand under the padding."""
    ids = np.random.default_rng(0).integers(0, 30, (2, 2, 12))
    mask = np.arange(12) < np.array([[7], [4]])
    ids[1] = np.where(mask, ids[0], ids[1])
    one, other = (
        support.evaluate(
            model, {"token_ids": i, "padding_mask": mask.astype("int32")}
        )
        for i in ids
    )
    return np.abs(one - other)[mask].max()


@pytest.mark.parametrize("router", OPTIONS)
def test_padding_takes_no_slot(router):
    assert changed_by_padding(backbone(router)) < 1e-5


@pytest.mark.once
def test_padding_is_mixed_where_it_was_published_so():
    made = backbone("mixture_of_tokens", padding="zeros")
    assert changed_by_padding(made) > 1e-3


@pytest.mark.once
def test_generate_refuses_tokens_that_compete_with_later_ones():
    inputs = {
        "token_ids": np.ones((1, 6), "int32"),
        "padding_mask": np.array([[1, 1, 1, 0, 0, 0]]),
    }
    model = models.MoTCausalLM(backbone("expert_choice", causal=True))
    with pytest.raises(ValueError, match="router='expert_choice', whose tok"):
        model.generate(inputs, stop_token_ids=None)
    everybody = backbone("expert_choice", causal=True, capacity_factor=4.0)
    model = models.MoTCausalLM(everybody)
    written = model.generate(inputs, stop_token_ids=None)
    assert written["token_ids"].shape == (1, 6)


@pytest.mark.once  # JAX has float64 only where it is switched on
@pytest.mark.parametrize(
    "make",
    [
        lambda: Attention(2, causal=True, rotary=True, dtype="float64"),
        lambda: RMSNorm(dtype="float64"),
    ],
    ids=["attention", "norm"],
)
def test_float64_is_computed_in_float64(make):
    """What float32 rounds away is there still."""
    layer = make()
    x = np.random.default_rng(0).normal(size=(1, 5, 8))
    layer.build(x.shape)
    step = np.zeros_like(x)
    step[0, 0, 0] = 1.0
    here, near, far = (
        keras.ops.convert_to_numpy(
            layer(keras.ops.convert_to_tensor(a, dtype="float64"))
        )
        for a in (x, x + 1e-9 * step, x + 1e-5 * step)
    )
    assert here.dtype == "float64"
    slopes = (near - here) / 1e-9, (far - here) / 1e-5
    np.testing.assert_allclose(*slopes, atol=1e-3)

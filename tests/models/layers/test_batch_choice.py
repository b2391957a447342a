"""Expert Choice over a batch is llm-random's layer."""

import json
import pathlib

import keras
import numpy as np
import pytest

from keras_moe.models.layers.batch_choice import BatchExpertChoice
from tests import support

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
EXPERTS = "params/expert_inner_function."
WEIGHTS = {
    "router_kernel": "params/gating.gate",
    "experts/up/kernel": f"{EXPERTS}lin1_weight",
    "experts/down/kernel": f"{EXPERTS}lin2_weight",
    "experts/gate/kernel": f"{EXPERTS}gate_weight",
    "output_norm/gamma": "params/ln.l.weight",
    "output_norm/beta": "params/ln.l.bias",
}
CASES = {
    "softmax_tokens": {},
    "gated_experts": {"gated": True, "activation": "silu"},
    "no_layer_norm": {"output_norm": False},
    "group_by_batch_softmax_experts": {
        "group_axis": "batch",
        "softmax_over": "experts",
    },
}


def make(**arguments):
    options = {"intermediate_dim": 12, "activation": "relu", **arguments}
    layer = BatchExpertChoice(4, 1.0, use_bias=False, **options)
    layer.build((None, None, 16))
    return layer


@pytest.mark.parametrize("name", CASES)
def test_outputs_of_the_reference(name):
    with np.load(GOLDEN / f"C_llmr_ec_{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    layer = make(**CASES[name])
    support.set_weights(
        layer,
        {ours: arrays[t] for ours, t in WEIGHTS.items() if t in arrays},
    )
    found = support.run(layer, arrays["inputs"])
    np.testing.assert_allclose(found, arrays["outputs"], atol=1e-5)


SHARES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.07, 0.125, 1 / 6, 1 / 3, 0.5)


@pytest.mark.parametrize("experts", [3, 4, 6, 7, 10, 12, 64])
def test_slots_are_a_rounded_share_of_the_tokens(experts):
    """Halves too, which a share that is off by a rounding error moves."""
    for share in SHARES:
        layer = BatchExpertChoice(experts, share * experts, intermediate_dim=4)
        for tokens in range(10, 400):
            wanted = round(share * tokens)
            if wanted:
                assert layer.capacity(tokens) == wanted, (share, tokens)


def test_slots_of_a_length_known_only_later():
    layer = BatchExpertChoice(6, 0.05 * 6, intermediate_dim=4)
    assert layer.capacity(50) == 2
    if keras.backend.backend() != "jax":  # there it must be known
        tokens = keras.ops.convert_to_tensor(50, "int32")
        assert int(layer.capacity(tokens)) == 2


def test_an_expert_has_no_more_slots_than_tokens_compete():
    layer = BatchExpertChoice(4, 4.5, intermediate_dim=4)
    assert layer.capacity(8) == 8
    if keras.backend.backend() != "jax":
        tokens = keras.ops.convert_to_tensor(8, "int32")
        assert int(layer.capacity(tokens)) == 8


def test_one_slot_at_least():
    layer = BatchExpertChoice(4, 0.1, intermediate_dim=4)
    assert layer.capacity(8) == 1


@pytest.mark.parametrize("axis", ["all", "batch"])
def test_masked_tokens_are_as_if_absent(axis):
    layer = make(group_axis=axis, output_norm=False)
    inputs = np.random.default_rng(0).normal(size=(8, 4, 16)).astype("float32")
    mask = np.ones((8, 4), bool)
    mask[2:4] = False
    other = np.where(mask[..., None], inputs, 9.0).astype("float32")
    call = support.compiled(lambda x: layer(x, mask=mask))
    first, second = call(inputs), call(other)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert not first[2:4].any() and first[:2].any()


def test_config():
    layer = make(group_axis="batch", softmax_over="experts", epsilon=1e-3)
    config = layer.get_config()
    again = BatchExpertChoice.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert {"capacity_factor", "group_axis"} < set(config)
    whole = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert isinstance(whole, BatchExpertChoice)
    with pytest.raises(ValueError, match="group_axis must be one of"):
        make(group_axis="sequence")
    with pytest.raises(ValueError, match="softmax_over must be one of"):
        make(softmax_over="slots")

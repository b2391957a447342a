"""Backbones with `recompute=True`: the same models, trained the same."""

import keras
import numpy as np
import pytest

from keras_moe import models

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 8, 8, 1)).astype("float32")
IDS = RNG.integers(0, 9, (2, 6))
PADDING = np.array([[1] * 6, [1, 1, 1, 1, 0, 0]])
COMMON = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
    "dropout": 0.2,
    "dtype": "mixed_bfloat16",
}
NOISY = {"num_experts": 3, "noise_std": 0.5}


def vision(**options):
    return models.MoEViTBackbone(
        image_shape=(8, 8, 1),
        patch_size=4,
        router="token_choice",
        moe_layers=[1],
        router_options={"top_k": 1, "balance_loss": 0.1, **NOISY},
        attention_dropout=0.1,
        **{**COMMON, **options},
    )


def language(**options):
    return models.MoTBackbone(
        vocabulary_size=9,
        router="token_choice",
        moe_layers=[1],
        router_options={"top_k": 1, "balance_bias_rate": 0.1, **NOISY},
        **{**COMMON, **options},
    )


MODELS = {
    "vision": (vision, IMAGES),
    "language": (language, {"token_ids": IDS, "padding_mask": PADDING}),
}


@pytest.fixture(params=MODELS)
def case(request):
    return MODELS[request.param]


def test_a_step_moves_all_variables_as_without(case, tmp_path):
    make, inputs = case
    targets = np.ones((2, 4 if make is vision else 6, 8), "float32")
    made = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        backbone = make(recompute=recompute)
        backbone.compile(keras.optimizers.SGD(0.01), "mse")
        loss = backbone.train_on_batch(inputs, targets)
        made.append((backbone, loss))
    (plain, expected), (backbone, loss) = made
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    names = [weight.path for weight in plain.weights]
    assert [weight.path for weight in backbone.weights] == names
    pairs = zip(backbone.variables, plain.variables, strict=True)
    for ours, theirs in pairs:
        # Compilers round to 16 bits in other places.
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=1e-2, atol=1e-3
        )
    # A file of weights suits both.
    path = tmp_path / "model.weights.h5"
    plain.save_weights(path)
    backbone.load_weights(path)
    for ours, theirs in zip(backbone.weights, plain.weights):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_presets_and_configs(case, tmp_path):
    make, inputs = case
    backbone = make(recompute=True)
    assert all(block.recompute for block in backbone.blocks)
    config = backbone.get_config()
    assert config["recompute"] is True
    del config["recompute"]  # of an earlier version
    assert type(backbone).from_config(config).recompute is False
    block = type(backbone.blocks[1]).from_config(
        backbone.blocks[1].get_config()
    )
    assert block.recompute
    backbone.save_to_preset(tmp_path / "preset")
    cls = type(backbone)
    for options, expected in (({}, True), ({"recompute": False}, False)):
        loaded = cls.from_preset(str(tmp_path / "preset"), **options)
        assert loaded.recompute is expected
        for ours, theirs in zip(loaded.weights, backbone.weights, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(ValueError, match="^recompute must be True or False"):
        make(recompute=1)

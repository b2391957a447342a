"""Constraints, regularisers, seeds and adapters are each expert's own."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers

SHAPE = (2, 8, 6)
MADE = {
    "soft": (layers.SoftMoE, 2),
    "choice": (layers.ExpertChoiceMoE, 2.0),
    "token": (layers.TokenChoiceMoE, 2),
    "mixture": (layers.MixtureOfTokens, 2),
}


def make(label="soft", **options):
    cls, number = MADE[label]
    if "expert" not in options:
        options = {"intermediate_dim": 8, **options}
    layer = cls(4, number, name="moe", **options)
    layer.build(SHAPE)
    return layer


def tokens():
    return np.random.default_rng(0).normal(size=SHAPE).astype("float32")


@pytest.mark.parametrize("name", ["unit_norm", "max_norm"])
def test_constraints(name):
    layer = make(kernel_constraint=name, bias_constraint=name)
    dense = keras.constraints.get(name)
    rng = np.random.default_rng(0)
    for stacked in (layer.experts.up.kernel, layer.experts.up.bias):
        stacked.assign(3 * rng.normal(size=stacked.shape))
        made = ops.convert_to_numpy(stacked.constraint(stacked))
        assert made.shape == tuple(stacked.shape)
        values = ops.convert_to_numpy(stacked)
        for one, value in zip(made, values):
            value = value if len(value) > 1 else value[0]
            expected = ops.convert_to_numpy(dense(value))
            np.testing.assert_allclose(one.reshape(value.shape), expected, 1e-5)
    assert layer.get_config()["kernel_constraint"] == (
        keras.constraints.serialize(dense)
    )


@pytest.mark.parametrize("name", ["orthogonal", "l2"])
def test_regularizers(name):
    regularizer = keras.regularizers.get(
        keras.regularizers.OrthogonalRegularizer(0.1)
        if name == "orthogonal"
        else name
    )
    layer = make(kernel_regularizer=regularizer, bias_regularizer="l2")
    kernels = [layer.experts.up.kernel, layer.experts.down.kernel]
    expected = sum(
        float(regularizer(one))
        for kernel in kernels
        for one in ops.convert_to_numpy(kernel)
    )
    found = float(sum(float(loss) for loss in layer.losses))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_clones_draw_their_own():
    seeded = keras.initializers.GlorotUniform(seed=1)
    template = keras.layers.Dense(6, kernel_initializer=seeded)
    first, again = make(expert=template), make(expert=template)
    kernels = [ops.convert_to_numpy(c.kernel) for c in first.experts.clones]
    for e, kernel in enumerate(kernels):
        np.testing.assert_array_equal(kernel, again.experts.clones[e].kernel)
        for other in kernels[:e]:
            assert np.abs(kernel - other).max() > 0.01
    saved = first.get_config()["expert"]["config"]["kernel_initializer"]
    assert saved["config"]["seed"] == 1


class Shapeless(keras.layers.Layer):
    """Neither `build` nor `compute_output_shape`, as many layers."""

    def __init__(self, units=6, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(units)

    def call(self, tokens):
        return ops.tanh(self.dense(tokens))


def test_an_expert_without_compute_output_shape():
    layer = make(expert=Shapeless())
    assert tuple(layer(tokens()).shape) == SHAPE
    assert len(layer.experts.weights) == 8
    with pytest.raises(ValueError, match="expert must return the shape"):
        make(expert=Shapeless(5))


def test_scalars_of_numpy():
    layer = layers.TokenChoiceMoE(
        np.int64(4),
        np.int32(2),
        intermediate_dim=np.int64(8),
        gated=np.True_,
        use_bias=np.False_,
        dropout=np.float32(0.5),
        capacity_factor=np.float64(1.5),
    )
    config = layer.get_config()
    assert json.loads(json.dumps(config))["intermediate_dim"] == 8
    assert config["gated"] is True and config["use_bias"] is False


@pytest.mark.parametrize("label", MADE)
def test_lora(label, tmp_path):
    layer = make(label, gated=label == "choice")
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    before = ops.convert_to_numpy(model(tokens()))
    layer.enable_lora(2)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(tokens())), before)
    up = layer.experts.up
    assert tuple(up.lora_kernel_a.shape) == (4, 6, 2)
    assert tuple(up.lora_kernel_b.shape) == (4, 2, 8)
    up.lora_kernel_b.assign(0.3 * np.ones((4, 2, 8)))
    after = ops.convert_to_numpy(model(tokens()))
    assert np.abs(after - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(tokens())), after, 1e-4, 1e-5
    )


def test_lora_of_int8(tmp_path, quick_quantization):
    layer = make(gated=True)
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.quantize("int8")
    before = ops.convert_to_numpy(model(tokens()))
    layer.enable_lora(2)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(tokens())), before)
    up = layer.experts.up
    kernel = ops.convert_to_numpy(up._kernel)
    model.compile(keras.optimizers.SGD(0.3), "mse")
    model.fit(tokens(), 9 + tokens(), epochs=3, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(up._kernel), kernel)
    assert np.abs(ops.convert_to_numpy(up.lora_kernel_b)).max() > 0
    after = ops.convert_to_numpy(model(tokens()))
    moved = np.abs(after - before).max()
    # Keras adds the adapters to the kernels as it saves, and rounds again.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = ops.convert_to_numpy(loaded(tokens()))
    assert np.abs(found - after).max() < 0.05 * moved


def test_lora_of_other_experts(quick_quantization):
    layer = make(expert=keras.layers.Dense(6))
    layer.enable_lora(2)
    assert all(clone.lora_enabled for clone in layer.experts.clones)
    with pytest.raises(ValueError, match="expert must hold layers that take"):
        make(expert=keras.layers.Activation("relu")).enable_lora(2)
    with pytest.raises(ValueError, match="must be built before enable_lora"):
        layers.SoftMoE(4, 2, intermediate_dim=8).enable_lora(2)
    with pytest.raises(ValueError, match="rank must be an integer of at"):
        make().enable_lora(0)
    layer = make()
    for one in (layer.experts.up, layer.experts.down):
        one.quantize("int4")
    with pytest.raises(ValueError, match="not quantised or are of int8"):
        layer.enable_lora(2)

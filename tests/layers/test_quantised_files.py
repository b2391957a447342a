"""Quantised layers are saved and loaded wherever they stand."""

import keras
import numpy as np
import pytest

from keras_moe import layers

SHAPE = (8, 6)


def moe():
    return layers.SoftMoE(4, 2, intermediate_dim=8, gated=True, name="moe")


@keras.saving.register_keras_serializable("keras_moe_tests")
class Subclassed(keras.Model):
    def __init__(self, inner=None, **options):
        super().__init__(**options)
        self.inner = moe() if inner is None else inner

    def call(self, tokens):
        return self.inner(tokens)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


def functional(wrap):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, wrap(moe())(inputs))


def over_time(layer):
    def call(inputs):
        images = keras.layers.Reshape((2, 4, 6))(inputs)
        return keras.layers.TimeDistributed(layer)(images)

    return call


CONTAINERS = {
    "functional": lambda: functional(lambda layer: layer),
    "sequential": lambda: keras.Sequential([keras.Input(SHAPE), moe()]),
    "nested": lambda: functional(
        lambda layer: keras.Sequential([layer], name="inner")
    ),
    "subclassed": Subclassed,
    "over time": lambda: functional(over_time),
}


def outputs_of(model):
    tokens = np.random.default_rng(0).normal(size=(2, *SHAPE))
    return keras.ops.convert_to_numpy(model(tokens.astype("float32")))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_saved_and_loaded(container, mode, tmp_path, quick_quantization):
    """Twice, as what was loaded is saved again."""
    model = CONTAINERS[container]()
    outputs_of(model)
    model.quantize(mode)
    expected = outputs_of(model)
    for name in ("first", "again"):
        model.save(tmp_path / f"{name}.keras")
        model = keras.saving.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(outputs_of(model), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    other = CONTAINERS[container]()
    outputs_of(other)
    other.quantize(mode)
    assert np.abs(outputs_of(other) - expected).max() > 0
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(outputs_of(other), expected)

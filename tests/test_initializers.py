"""Kernels of experts start as if each expert were a layer of its own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_moe import layers
from keras_moe.initializers import PerExpert

E, D, F = 8, 64, 96


def draw(*arguments, **keywords):
    kernel = PerExpert(*arguments, **keywords)((E, D, F), dtype="float32")
    return ops.convert_to_numpy(kernel)


@pytest.mark.parametrize(
    "name", ["glorot_uniform", "he_normal", "lecun_normal", "orthogonal"]
)
def test_each_expert_has_the_spread_of_a_dense_layer(name):
    dense = ops.convert_to_numpy(keras.initializers.get(name)((D, F)))
    for kernel in draw(name):
        np.testing.assert_allclose(kernel.std(), dense.std(), rtol=0.05)


def test_keras_alone_would_start_stacked_kernels_too_small():
    stacked = keras.initializers.get("glorot_uniform")((E, D, F))
    stacked = ops.convert_to_numpy(stacked)
    ratio = draw("glorot_uniform").std() / stacked.std()
    np.testing.assert_allclose(ratio, np.sqrt(E), rtol=0.05)


def test_experts_differ_and_seeds_repeat():
    seeded = keras.initializers.GlorotUniform(seed=3)
    first, again = draw(seeded), draw(seeded)
    np.testing.assert_array_equal(first, again)
    for kernels in (first, draw("glorot_uniform")):
        for other in kernels[1:]:
            assert np.abs(kernels[0] - other).max() > 0.01


def test_identical_experts():
    kernels = draw("glorot_uniform", identical=True)
    np.testing.assert_array_equal(kernels, np.stack([kernels[0]] * E))
    assert kernels[0].std() > 0.05


def test_initialisers_without_a_seed_and_functions():
    assert (draw("ones") == 1).all()

    def rows(shape, dtype=None):
        return ops.ones(shape, dtype) * shape[0]

    assert (draw(rows) == D).all()


def test_round_trip():
    first = PerExpert(keras.initializers.HeNormal(seed=1), identical=True)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(first)
    )
    assert again.get_config() == first.get_config()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again((E, D, F))),
        ops.convert_to_numpy(first((E, D, F))),
    )


def test_layers_take_it_and_save_it():
    layer = layers.SoftMoE(
        4,
        1,
        intermediate_dim=8,
        kernel_initializer=PerExpert("he_normal", identical=True),
    )
    layer = layers.SoftMoE.from_config(layer.get_config())
    layer.build((None, 5, 6))
    kernel = ops.convert_to_numpy(layer.experts.up.kernel)
    np.testing.assert_array_equal(kernel[0], kernel[3])


def test_errors():
    with pytest.raises(ValueError, match="initializer must be a Keras init"):
        PerExpert("no such thing")
    with pytest.raises(ValueError, match="identical must be True or False"):
        PerExpert("zeros", identical=1)

"""What the docs say of Keras itself: notices when it is mended."""

import keras
import numpy as np
import pytest

from tests.exporting import exported
from tests.support import BACKEND


class Penalty(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs))
        return inputs + 1.0


def test_losses_of_a_layer_called_twice():
    inputs = keras.Input((1,))
    layer = Penalty()
    model = keras.Model(inputs, layer(layer(inputs)))
    model.compile("sgd", loss=lambda y, outputs: 0.0 * keras.ops.mean(outputs))
    ones = np.ones((2, 1), "float32")
    found = model.evaluate(ones, ones, verbose=0)
    both, last = 1.0 + 2.0, 2.0
    assert found == (last if BACKEND == "jax" else both)


def test_onnx_of_layer_normalization_with_an_open_batch(tmp_path):
    norm = keras.layers.LayerNormalization()
    model = keras.Sequential([keras.Input((4, 8)), norm])
    signature = keras.InputSpec(shape=(None, 4, 8), dtype="float32")
    if BACKEND == "torch":
        with pytest.raises(Exception, match="prim::ListConstruct"):
            exported(model, "onnx", signature, tmp_path)
        return
    tokens = np.arange(96, dtype="float32").reshape(3, 4, 8) ** 2
    run = exported(model, "onnx", signature, tmp_path)
    expected = keras.ops.convert_to_numpy(model(tokens))
    np.testing.assert_allclose(run(tokens), expected, 1e-5, 1e-5)

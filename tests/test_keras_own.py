"""What guarantees.md says of Keras itself: notices when it is mended."""

import keras
import numpy as np

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

"""What the docs say of Keras itself: notices when it is mended."""

import threading

import keras
import numpy as np
import pytest

from keras_moe import layers
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


REMADE = {
    "dense": lambda act: keras.layers.Dense(6, activation=act),
    "dropout": lambda act: keras.layers.Dropout(0.5),
    "moe": lambda act: layers.SoftMoE(2, 2, intermediate_dim=8, activation=act),
}


@pytest.mark.parametrize("name", REMADE)
def test_layers_made_in_a_remat_scope(name):
    calls = []

    def activation(rows):
        calls.append(rows)
        return keras.ops.relu(rows)

    with keras.RematScope(mode="full"):
        layer = REMADE[name](activation)
        model = keras.Sequential([keras.Input((8, 6)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    tokens = np.ones((2, 8, 6), "float32")
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match="supports keywords arguments onl"):
            model.fit(tokens, tokens, verbose=0)
        return
    if BACKEND == "jax" and name != "dense":
        with pytest.raises(RuntimeError, match="Unable to automatically build"):
            model.fit(tokens, tokens, verbose=0)
        return
    model.fit(tokens, tokens, verbose=0)
    if BACKEND == "torch" and name != "dropout":
        calls.clear()
        keras.ops.sum(layer(keras.ops.convert_to_tensor(tokens))).backward()
        assert len(calls) > 1  # forward, and again for the gradient


def test_predict_in_a_thread_beside_another():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    ones = np.ones((1, 2), "float32")
    expected = model.predict(ones, verbose=0)
    inside, go_on, found = threading.Event(), threading.Event(), []

    def batches():
        for index in range(8):
            if index == 6:  # more than Keras reads ahead
                inside.set()
                go_on.wait(60)
            yield (ones,)

    def first():
        found.append(model.predict(batches(), steps=8, verbose=0))

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    try:
        if BACKEND == "jax":
            with pytest.raises(TypeError, match="'NoneType' object is not cal"):
                model.predict(ones, verbose=0)
        else:
            np.testing.assert_array_equal(
                model.predict(ones, verbose=0), expected
            )
    finally:
        go_on.set()
        thread.join(60)
    if BACKEND != "jax":
        np.testing.assert_array_equal(found[0], np.repeat(expected, 8, axis=0))

"""One contract for all layers: saving and cloning."""

import keras
import numpy as np
import pytest

from tests.contract_table import BATCH
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS
from tests.contract_table import evaluate
from tests.contract_table import make_model
from tests.contract_table import randomize
from tests.contract_table import tokens_of

every_layer = pytest.mark.parametrize("label", LAYERS)


def random_model(label, *token_axes):
    model = make_model(label, *token_axes)
    randomize(model.get_layer("moe"))
    return model


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected)


# === Saving ===


@every_layer
def test_keras_file(label, tmp_path):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    same(evaluate(loaded, tokens), evaluate(model, tokens))
    assert loaded.get_layer("moe").get_config() == (
        model.get_layer("moe").get_config()
    )
    loaded.compile("sgd", "mse")
    loaded.fit(tokens, tokens, BATCH, verbose=0)


@pytest.mark.parametrize("label", [*LAYERS, "depths_threshold"])
def test_weights_file(label, tmp_path):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = make_model(label, TOKENS)
    assert np.abs(evaluate(loaded, tokens) - evaluate(model, tokens)).max() > 0
    loaded.load_weights(tmp_path / "model.weights.h5")
    same(evaluate(loaded, tokens), evaluate(model, tokens))


@every_layer
def test_clone_model(label):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    clone = keras.models.clone_model(model)
    assert clone.get_layer("moe") is not model.get_layer("moe")
    assert [w.path for w in clone.weights] == [w.path for w in model.weights]
    clone.set_weights(model.get_weights())
    same(evaluate(clone, tokens), evaluate(model, tokens))


@pytest.mark.parametrize("label", ["soft", "token", "soft_gated"])
def test_int8_file(label, tmp_path, quick_quantization):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same(evaluate(loaded, tokens), evaluate(model, tokens))


@pytest.mark.parametrize("label", ["soft_dense", "choice_sequential"])
def test_int8_clones_are_not_saved(label, tmp_path, quick_quantization):
    model = random_model(label, None)
    model.quantize("int8")
    with pytest.raises(ValueError, match="expert= cannot be saved once it is"):
        model.save(tmp_path / "model.keras")

"""Two towers in int8, and with LoRA's adapters."""

import gc

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models.support import close
from tests.models.support import randomize
from tests.models.two_tower.support import CAPTIONS
from tests.models.two_tower.support import PIXELS
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import make_model

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def nothing_to_collect():
    """Keras collects garbage for each layer that it quantises."""
    gc.freeze()
    yield
    gc.unfreeze()


def embeddings(model):
    return [model.encode_image(PIXELS), model.encode_text(CAPTIONS)]


def test_int8(tmp_path):
    """Both towers and both projections; files give the same embeddings."""
    model = randomize(make_model(make_backbone(projection_dim=5)))
    before = embeddings(model)
    model.quantize("int8")
    modes = {
        layer.path: getattr(layer, "quantization_mode", None)
        for layer in model._flatten_layers()
    }
    quantised = {path for path, mode in modes.items() if mode == "int8"}
    for name in (
        "image_projection",
        "text_projection",
        "block_1/moe/experts/up",
    ):
        assert name in quantised
    assert len(quantised) > 20
    after = embeddings(model)
    for one, other in zip(before, after):
        assert 1e-5 < np.abs(one - other).max() < 0.05
    model.save_to_preset(tmp_path / "preset")
    loaded = models.MoETwoTower.from_preset(tmp_path / "preset")
    for one, other in zip(embeddings(loaded), after):
        close(one, other, 1e-6)


def test_lora(tmp_path):
    """The backbone's adapters learn, and no kernel; a file gives them back."""
    model = randomize(make_model(make_backbone(projection_dim=5)))
    start = [keras.ops.convert_to_numpy(w) for w in model.weights]
    model.backbone.enable_lora(2)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(PIXELS, CAPTIONS, batch_size=4, verbose=0)
    changed = {
        w.path
        for w in model.weights
        if not np.array_equal(before[w.path], keras.ops.convert_to_numpy(w))
    }
    for tower in ("block_0", "text_block_0"):
        assert f"{tower}/attention/query/lora_kernel_b" in changed
    others = {path for path in changed if "attention" not in path}
    assert not others and not any(p.endswith("/kernel") for p in changed)
    model.save_lora_weights(tmp_path / "two.lora.h5")
    again = make_model(make_backbone(projection_dim=5))
    for weight, value in zip(again.weights, start):
        weight.assign(value)
    again.backbone.enable_lora(2)
    again.load_lora_weights(tmp_path / "two.lora.h5")
    for one, other in zip(embeddings(again), embeddings(model)):
        close(one, other, 1e-6)


def test_a_classifier_shares_the_image_tower():
    """Quantised, it quantises the tower of the model that made it."""
    model = randomize(make_model())
    images, texts = embeddings(model)
    classifier = model.zero_shot_classifier(["red cat", "dog"])
    classifier.quantize("int8")
    found, same = embeddings(model)
    assert np.abs(found - images).max() > 1e-5
    close(same, texts, 1e-6)

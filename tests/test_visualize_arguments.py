"""Pictures and the report say which argument does not fit, and what came."""

import types

import numpy as np
import pytest

from keras_moe import layers
from keras_moe import visualize
from keras_moe.visualize import arguments
from tests.test_visualize import soft

pytestmark = pytest.mark.once
IMAGES = np.zeros((2, 8, 12, 1), "float32")


@pytest.mark.parametrize(
    "change, match",
    [
        ({"images": "text"}, "images must be an array of numbers"),
        ({"grid": 4}, "grid must be two integers"),
        ({"grid": (0, 3)}, "rows of grid must be an integer"),
        ({"columns": 0}, "columns must be an integer of at least 1"),
        ({"titles": "ab"}, "titles must be a list of strings"),
        ({"title": 3}, "title must be a string or None"),
    ],
)
def test_images(change, match):
    right = {"images": IMAGES, "plan": soft(), "grid": (2, 3)}
    with pytest.raises(ValueError, match=match):
        visualize.slot_regions(**{**right, **change})


@pytest.mark.parametrize("tokens", ["ab", None, [1, 2], [[1], [2]]])
def test_tokens(tokens):
    layer = layers.SoftMoE(3, 2, intermediate_dim=2)
    with pytest.raises(ValueError, match="tokens must be lists of strings"):
        visualize.token_experts(tokens, layer, soft())
    with pytest.raises(ValueError, match="layer must be the keras_moe layer"):
        visualize.token_experts([["a"]], "layer", soft())


@pytest.mark.parametrize("batch", ["text", [], np.float32(1), [1, 2]])
def test_report_of_no_batch(batch, tmp_path):
    layer = layers.SoftMoE(3, 2, intermediate_dim=2)
    with pytest.raises(ValueError, match="batch must be an array"):
        visualize.report(layer, batch, tmp_path / "r.html")
    with pytest.raises(ValueError, match="model must be a Keras model"):
        visualize.report("model", batch, tmp_path / "r.html")
    with pytest.raises(ValueError, match="is a folder"):
        visualize.report(layer, batch, tmp_path)
    assert not any(tmp_path.iterdir())


def test_batches_of_tasks():
    for batch in ("text", [], IMAGES[0], IMAGES[:0], IMAGES.repeat(2, -1)):
        with pytest.raises(ValueError, match="batch must be"):
            arguments.images(batch, 1)
    with pytest.raises(ValueError, match=r"make a batch, image\[None\]"):
        arguments.images(IMAGES[0], 1)
    for batch in ("text", [], [1], None):
        with pytest.raises(ValueError, match="batch must be a list of"):
            arguments.texts(batch)
    task = types.SimpleNamespace(preprocessor=None)
    with pytest.raises(ValueError, match="model must have a preprocessor"):
        arguments.preprocessor(task)

"""A small classifier, exported, gives what it gave before."""

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.export_table import ANY
from tests.export_table import CLASSIFIERS
from tests.exporting import exported
from tests.models.support import TINY
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import randomize
from tests.support import BACKEND

HERE = [
    (export, router, outcome)
    for (backend, export), row in CLASSIFIERS.items()
    for router, outcome in row.items()
    if backend == BACKEND
]


def signature(batch):
    shape = (batch, *TINY["image_shape"])
    return keras.InputSpec(shape=shape, dtype="float32")


@pytest.mark.parametrize("export, router, outcome", HERE)
def test_export(export, router, outcome, tmp_path):
    # Exact GELU has the fewest forms that other runtimes know.
    backbone = make_backbone(
        router, class_token=True, qk_norm=True, activation="gelu"
    )
    model = randomize(make_classifier(backbone=backbone, pooling="map"))
    if isinstance(outcome, tuple):
        text, reason = outcome
        assert reason
        with pytest.raises(Exception, match=f"(?s){text}"):
            exported(model, export, signature(2), tmp_path)
        return
    batch = None if outcome == ANY else 2
    run = exported(model, export, signature(batch), tmp_path)
    for number, seed in [(2, 0), (batch or 3, 1)]:
        images = images_of(number, seed=seed)
        expected = evaluate(model, images)
        assert np.abs(expected).max() > 0.01
        close(run(images), expected)


# The other backends write for it what they write for the small one above.
if BACKEND == "tensorflow":

    @pytest.mark.parametrize("export", ["onnx", "litert"])
    def test_shipped_classifier(export, tmp_path):
        model = models.MoEViTImageClassifier.from_preset(
            "soft_moe_vit_tiny_fashion_mnist"
        )
        shape = (28, 28, 1)
        spec = keras.InputSpec(shape=(None, *shape), dtype="float32")
        run = exported(model, export, spec, tmp_path)
        images = images_of(3, shape)
        close(run(images), evaluate(model, images))

"""A small classifier, exported, gives what it gave before."""

import keras
import numpy as np
import pytest

from tests.models.exporting import exported
from tests.models.support import TINY
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import randomize
from tests.support import BACKEND

# What is known of the batch.
ANY, FIXED = None, 2
# (backend, format, router) -> the size of the batch that an export needs to
# know, or the error and the reason why there is none.
EXPORTS = {
    ("tensorflow", "tf_saved_model", "soft"): ANY,
    ("tensorflow", "tf_saved_model", "expert_choice"): ANY,
    ("tensorflow", "tf_saved_model", "token_choice"): ANY,
    ("tensorflow", "onnx", "soft"): ANY,
    ("tensorflow", "onnx", "expert_choice"): ANY,
    ("tensorflow", "onnx", "token_choice"): ANY,
    ("jax", "tf_saved_model", "soft"): ANY,
    ("jax", "tf_saved_model", "token_choice"): ANY,
    ("jax", "onnx", "soft"): ANY,
    ("jax", "onnx", "expert_choice"): FIXED,
    # PyTorch's exporter has no stable sort, so not for the other routers.
    ("torch", "onnx", "soft"): FIXED,
    ("torch", "torch", "soft"): FIXED,
    ("torch", "torch", "token_choice"): FIXED,
    ("torch", "tf_saved_model", "soft"): ("torch_xla", "Keras needs torch_xla"),
}
HERE = [case[1:] for case in EXPORTS if case[0] == BACKEND]


def signature(batch):
    shape = (batch, *TINY["image_shape"])
    return keras.InputSpec(shape=shape, dtype="float32")


@pytest.mark.parametrize("export, router", HERE)
def test_export(export, router, tmp_path):
    backbone = make_backbone(router, class_token=True, qk_norm=True)
    model = randomize(make_classifier(backbone=backbone, pooling="map"))
    batch = EXPORTS[BACKEND, export, router]
    if isinstance(batch, tuple):
        text, reason = batch
        assert reason
        with pytest.raises(Exception, match=f"(?s){text}"):
            exported(model, export, signature(FIXED), tmp_path)
        return
    run = exported(model, export, signature(batch), tmp_path)
    for number, seed in [(2, 0), (batch or 3, 1)]:
        images = images_of(number, seed=seed)
        expected = evaluate(model, images)
        assert np.abs(expected).max() > 0.01
        close(run(images), expected)

"""A quantised classifier is the same after a preset, and after another."""

import keras
import numpy as np
import pytest

from keras_moe import models


@pytest.mark.parametrize("pooling, size", [("gap", None), ("map", 8)])
def test_saved_twice(pooling, size, tmp_path, quick_quantization):
    backbone = models.MoEViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        router="soft",
        router_options={"num_experts": 2, "slots_per_expert": 2},
    )
    task = models.MoEViTImageClassifier(
        backbone, 3, pooling=pooling, representation_size=size
    )
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    images = images.astype("float32")
    task.quantize("int8")
    expected = keras.ops.convert_to_numpy(task(images))
    for name in ("first", "again"):
        task.save_to_preset(tmp_path / name)
        task = models.MoEViTImageClassifier.from_preset(tmp_path / name)
        found = keras.ops.convert_to_numpy(task(images))
        np.testing.assert_array_equal(found, expected)

"""Blocks start as vmoe's do."""

import keras
import numpy as np

from keras_moe.models import MoEViTBackbone


def test_kernels_start_at_the_scale_of_their_features():
    keras.utils.set_random_seed(0)
    backbone = MoEViTBackbone((16, 16, 3), 4, 1, 4, 64, 128)
    spreads = {
        w.path: keras.ops.convert_to_numpy(w).std()
        for w in backbone.weights
        if w.path.endswith("kernel")
    }
    glorot = (2 / (64 + 64)) ** 0.5  # Glorot's standard deviation for D -> D
    for name in ("query", "key", "value", "out"):
        found = spreads[f"block_0/attention/{name}/kernel"]
        np.testing.assert_allclose(found, glorot, rtol=0.05)
    lecun = (1 / (4 * 4 * 3)) ** 0.5
    np.testing.assert_allclose(
        spreads["patch_embedding/kernel"], lecun, rtol=0.1
    )

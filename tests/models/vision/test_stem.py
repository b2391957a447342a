"""Convolutions before the patches."""

import keras
import numpy as np
import pytest

from keras_moe import planning
from keras_moe.models import MoEViTBackbone
from keras_moe.models.vision.stem import ConvolutionalStem
from tests.models.support import TINY
from tests.models.support import close
from tests.models.support import evaluate
from tests.models.support import images_of
from tests.models.support import make_backbone
from tests.models.support import randomize


def halved(images, kernel, gamma, beta, epsilon):
    """One convolution of the stem, by loops over places."""
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    found = np.zeros((batch, height // 2, width // 2, kernel.shape[-1]))
    for row in range(height // 2):
        for column in range(width // 2):
            window = padded[
                :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3
            ]
            found[:, row, column] = np.einsum("bijc,ijcd->bd", window, kernel)
    found -= found.mean(-1, keepdims=True)
    found /= np.sqrt(found.var(-1, keepdims=True) + epsilon)
    return np.maximum(found * gamma + beta, 0)


def test_stem_is_convolutions_norms_and_activations():
    stem = ConvolutionalStem((4, 6), activation="relu", epsilon=0.1)
    images = images_of()
    stem.build(images.shape)
    randomize(stem)
    outputs = keras.ops.convert_to_numpy(stem(images))
    assert stem.compute_output_shape((None, 12, 16, 3)) == (None, 3, 4, 6)
    expected = images
    for convolution, norm in zip(stem.convolutions, stem.norms):
        weights = map(
            keras.ops.convert_to_numpy,
            (convolution.kernel, norm.gamma, norm.beta),
        )
        expected = halved(expected, *weights, 0.1)
    close(outputs, expected, 1e-5)
    again = ConvolutionalStem.from_config(stem.get_config())
    assert again.get_config() == stem.get_config()


def test_backbone_has_as_many_patches_with_a_stem(tmp_path):
    backbone = make_backbone(stem_dims=(4, 6))
    assert backbone.patch_embedding.kernel.shape == (1, 1, 6, 8)
    outputs = evaluate(backbone, images_of())
    assert outputs.shape == (2, 12, 8)
    backbone.save_to_preset(tmp_path)
    loaded = MoEViTBackbone.from_preset(str(tmp_path))
    close(evaluate(loaded, images_of()), outputs, 1e-6)
    larger = MoEViTBackbone.from_preset(str(tmp_path), image_shape=(24, 16, 3))
    assert larger.grid == (6, 4)


@pytest.mark.once
def test_flops_of_a_stem_by_hand():
    with_stem, without = (
        planning.flops(make_backbone("dense", stem_dims=dims))
        for dims in ((4, 6), ())
    )
    stem = 2 * 6 * 8 * 27 * 4 + 2 * 3 * 4 * 36 * 6
    patches, of_pixels = 2 * 12 * 6 * 8, 2 * 12 * 48 * 8
    assert with_stem - without == stem + patches - of_pixels


@pytest.mark.once
def test_stems_that_do_not_fit():
    with pytest.raises(ValueError, match=r"stem_dims must be so few .*\(4, 4,"):
        MoEViTBackbone(**TINY, stem_dims=(4, 4, 4))
    with pytest.raises(ValueError, match="must be a sequence of integers; rec"):
        MoEViTBackbone(**TINY, stem_dims=4)
    with pytest.raises(ValueError, match="stem_dims must be a.*received 0"):
        MoEViTBackbone(**TINY, stem_dims=(0,))

"""Positions of patches: fixed values, and learned ones read on another grid."""

import pathlib

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_moe.models import resize_positions
from keras_moe.models.vision.positions import ClassToken
from keras_moe.models.vision.positions import SinCos2DPositions
from keras_moe.models.vision.positions import sincos2d
from tests.models.support import close
from tests.models.support import make_backbone

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"

# Number of the case: grids, with a class token before, after.
CASES = [
    (0, (4, 4), (6, 6), True, True),
    (1, (4, 4), (7, 7), False, False),
    (2, (6, 6), (4, 4), True, True),
    (3, (5, 5), (5, 5), True, False),
]


@pytest.mark.parametrize("number, source, target, before, after", CASES)
def test_resized_as_vmoe_does_it(number, source, target, before, after):
    golden = np.load(GOLDEN / "F_pos_embedding_zoom.npz")
    actual = resize_positions(
        golden[f"source_{number}"],
        source,
        target,
        class_token=before,
        keep_class_token=after,
    )
    assert actual.dtype == "float32"
    np.testing.assert_array_equal(actual, golden[f"target_{number}"])


def test_corners_stay_and_lines_stay_straight():
    """Linear between corners that lie on each other, in both directions."""
    rows, columns = np.meshgrid(
        np.linspace(-1, 1, 3), np.linspace(2, 5, 4), indexing="ij"
    )
    grid = np.stack([rows, columns, rows + columns], -1).reshape(1, 12, 3)
    more, wider = np.meshgrid(
        np.linspace(-1, 1, 5), np.linspace(2, 5, 6), indexing="ij"
    )
    expected = np.stack([more, wider, more + wider], -1).reshape(1, 30, 3)
    actual = resize_positions(grid, (3, 4), (5, 6), class_token=False)
    assert actual.dtype == "float64"
    close(actual, expected, 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    positions = np.random.default_rng(0).normal(size=(1, 5, 8))
    half = positions.astype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype))
    actual = resize_positions(half, (2, 2), (3, 3), True)
    assert actual.dtype == half.dtype
    expected = resize_positions(positions, (2, 2), (3, 3), True)
    close(actual.astype("float32"), expected, 0.02)


@pytest.mark.parametrize(
    "shape, class_token",
    [((1, 16, 8), True), ((1, 17, 8), False), ((17, 8), True), ((2, 17, 8), 1)],
)
def test_positions_of_another_grid_are_refused(shape, class_token):
    with pytest.raises(ValueError) as raised:
        resize_positions(np.zeros(shape), (4, 4), (7, 7), class_token)
    message = str(raised.value)
    assert message.startswith("positions must have the shape (1, 1")
    assert "grid of 4 x 4 patches" in message
    assert message.endswith(f"received shape {shape}.")


@pytest.mark.parametrize("class_token", [False, True])
def test_weights_of_another_grid_are_resized_when_loaded(class_token, tmp_path):
    small = make_backbone(class_token=class_token)
    small.save_weights(tmp_path / "small.weights.h5")
    large = make_backbone(image_shape=(20, 8, 3), class_token=class_token)
    large.load_weights(tmp_path / "small.weights.h5")
    find = {w.path: keras.ops.convert_to_numpy(w) for w in small.weights}
    name = "positions/positions"
    (loaded,) = (w for w in large.weights if w.path == name)
    expected = resize_positions(find[name], (3, 4), (5, 2), class_token)
    assert loaded.shape == (1, 10 + class_token, 8)
    close(keras.ops.convert_to_numpy(loaded), expected, 0)


# === Fixed positions ===


def test_sincos2d():
    """[sin x·ω, cos x·ω, sin y·ω, cos y·ω], row by row."""
    grid, features = (2, 3), 12
    actual = sincos2d(grid, features)
    assert actual.shape == (1, 6, 12) and actual.dtype == "float32"
    for y in range(2):
        for x in range(3):
            omega = [1.0, 0.01, 0.0001]  # 10000^0, 10000^(-1/2), 10000^-1
            expected = [
                *(np.sin(x * w) for w in omega),
                *(np.cos(x * w) for w in omega),
                *(np.sin(y * w) for w in omega),
                *(np.cos(y * w) for w in omega),
            ]
            close(actual[0, 3 * y + x], expected, 1e-7)


@pytest.mark.parametrize("features", [4, 10, 14])
def test_features_that_sincos2d_cannot_have(features):
    text = 'hidden_dim must be a multiple of 4, 8 or more, for positions="sin'
    with pytest.raises(ValueError, match=text):
        sincos2d((2, 2), features)
    with pytest.raises(ValueError, match=f"^{text}.*received {features}"):
        make_backbone("dense", hidden_dim=features, positions="sincos2d")


def test_fixed_positions_leave_the_class_token_alone():
    layer = SinCos2DPositions((2, 2), class_token=True)
    tokens = np.ones((3, 5, 8), "float32")
    outputs = keras.ops.convert_to_numpy(layer(tokens))
    close(outputs[:, :1], tokens[:, :1], 0)
    expected = np.broadcast_to(sincos2d((2, 2), 8), (3, 4, 8))
    close(outputs[:, 1:] - 1, expected, 1e-6)
    assert not layer.weights


def test_class_token_comes_first():
    layer = ClassToken()
    tokens = np.ones((3, 4, 8), "float32")
    layer.build(tokens.shape)
    layer.token.assign(np.full((1, 1, 8), 2.0))
    outputs = keras.ops.convert_to_numpy(layer(tokens))
    close(outputs[:, 0], np.full((3, 8), 2.0), 0)
    close(outputs[:, 1:], tokens, 0)
    assert layer.compute_output_shape((None, None, 8)) == (None, None, 8)

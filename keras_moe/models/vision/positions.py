"""Class token, and learned and fixed positions of tokens."""

import keras
import numpy as np
from keras import ops


def resize_positions(
    positions, source, target, class_token, keep_class_token=True
):
    """Read learned positions of one grid of patches at the places of another.

    Linear in both directions with the corners of both grids on each other,
    as `vit_zoom` of vmoe/initialization/rules.py does it. The class token's
    row is kept as it is, or left out.

    Args:
        positions: array (1,N,D), N = source rows · columns, and one row more
            in front for a class token.
        source: (rows, columns) of the grid that `positions` were made for.
        target: (rows, columns) wanted.
        class_token: whether there is a class token.
        keep_class_token: whether its row is wanted.

    Returns:
        Array (1,M,D) for the target grid, of the same dtype.

    Example:

    >>> import numpy as np
    >>> from keras_moe.models import resize_positions
    >>> resize_positions(np.ones((1, 17, 8)), (4, 4), (7, 7), True).shape
    (1, 50, 8)
    """
    from scipy import ndimage

    positions = np.asarray(positions)
    expected = source[0] * source[1] + int(class_token)
    if positions.ndim != 3 or positions.shape[:2] != (1, expected):
        raise ValueError(
            f"positions must have the shape (1, {expected}, features) for a "
            f"grid of {source[0]} x {source[1]} patches and class_token="
            f"{class_token}; received shape {positions.shape}."
        )
    first, grid = np.split(positions, [int(class_token)], axis=1)
    if tuple(source) != tuple(target):
        features = positions.shape[-1]
        grid = grid.reshape(1, *source, features)
        factors = (1, target[0] / source[0], target[1] / source[1], 1)
        # It knows no half precision.
        wide = np.promote_types(positions.dtype, "float32")
        grid = ndimage.zoom(grid.astype(wide), factors, order=1)
        grid = grid.reshape(1, target[0] * target[1], features)
        grid = grid.astype(positions.dtype)
    return np.concatenate([first, grid], axis=1) if keep_class_token else grid


def sincos2d(grid, features, temperature=10_000.0):
    """Fixed positions (1, rows·columns, D): sine and cosine of x and of y.

    [sin x·ω, cos x·ω, sin y·ω, cos y·ω] with ω_i = temperature^(-i/(D/4 - 1)).
    """
    if features % 4 or features < 8:
        raise ValueError(
            "hidden_dim must be a multiple of 4, 8 or more, for positions="
            f'"sincos2d"; received {features}.'
        )
    quarter = features // 4
    omega = temperature ** (-np.arange(quarter) / (quarter - 1))
    y, x = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    x = x.reshape(-1, 1) * omega
    y = y.reshape(-1, 1) * omega
    parts = [np.sin(x), np.cos(x), np.sin(y), np.cos(y)]
    return np.concatenate(parts, axis=1)[None].astype("float32")


@keras.saving.register_keras_serializable(package="keras_moe")
class ClassToken(keras.layers.Layer):
    """Puts one learned token in front of each sequence."""

    def build(self, input_shape):
        self.token = self.add_weight(
            name="token", shape=(1, 1, input_shape[-1]), initializer="zeros"
        )
        self.built = True

    def call(self, tokens):
        batch = ops.shape(tokens)[0]
        # Under PyTorch's tracer, sizes of `tokens` are tensors.
        first = ops.broadcast_to(self.token, (batch, 1, self.token.shape[-1]))
        first = ops.cast(first, tokens.dtype)
        return ops.concatenate([first, tokens], axis=1)

    def compute_output_shape(self, input_shape):
        batch, tokens, features = input_shape
        return batch, None if tokens is None else tokens + 1, features


@keras.saving.register_keras_serializable(package="keras_moe")
class LearnedPositions(keras.layers.Layer):
    """Adds to each token a learned vector for its place.

    Weights saved for another grid are resized when they are loaded, see
    `resize_positions`.

    Args:
        grid: (rows, columns) of patches.
        class_token: whether the first token is a class token, which has a
            position too.
    """

    def __init__(self, grid, class_token=False, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.class_token = class_token

    def build(self, input_shape):
        tokens = self.grid[0] * self.grid[1] + int(self.class_token)
        self.positions = self.add_weight(
            name="positions",
            shape=(1, tokens, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.built = True

    def call(self, tokens):
        return tokens + ops.cast(self.positions, tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def save_own_variables(self, store):
        store["0"] = keras.ops.convert_to_numpy(self.positions)
        store["grid"] = np.array(self.grid, "int32")

    def load_own_variables(self, store):
        source = tuple(int(n) for n in np.array(store["grid"]))
        self.positions.assign(
            resize_positions(store["0"], source, self.grid, self.class_token)
        )

    def get_config(self):
        config = super().get_config()
        config.update(grid=self.grid, class_token=self.class_token)
        return config


@keras.saving.register_keras_serializable(package="keras_moe")
class SinCos2DPositions(keras.layers.Layer):
    """Adds to each patch a fixed vector for its place; none to a class token.

    Args:
        grid: (rows, columns) of patches.
        class_token: whether the first token is a class token.
    """

    def __init__(self, grid, class_token=False, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.class_token = class_token

    def build(self, input_shape):
        self.features = input_shape[-1]
        self.built = True

    def call(self, tokens):
        positions = sincos2d(self.grid, self.features)
        if self.class_token:
            positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
        return tokens + ops.cast(positions, tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(grid=self.grid, class_token=self.class_token)
        return config


POSITIONS = {
    "learned": LearnedPositions,
    "sincos2d": SinCos2DPositions,
    "none": None,
}


def placed(tokens, grid, positions, class_token, dtype):
    """Put a class token in front, if any, and add positions of this name."""
    if class_token:
        tokens = ClassToken(dtype=dtype, name="class_token")(tokens)
    kind = POSITIONS[positions]
    if kind is None:
        return tokens
    return kind(grid, class_token, dtype=dtype, name="positions")(tokens)

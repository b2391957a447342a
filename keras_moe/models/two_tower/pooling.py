"""Pooling of the tokens of a text or an image into one vector."""

import keras
from keras import ops

from keras_moe import checks

POOLINGS = ("mean", "token", "last", "last_token")


@keras.saving.register_keras_serializable(package="keras_moe")
class SequencePooling(keras.layers.Layer):
    """Reads a sequence (B,T,D) into one vector (B,D), without weights.

    Args:
        pooling: `"mean"` of the tokens, the first `"token"`, the `"last"`
            position, or the `"last_token"`, behind which there is padding
            only.

    `call` takes `tokens` (B,T,D), and `padding_mask` (B,T), 1 for tokens and
    0 for padding, or `None`. `"token"` and `"last"` do not look at it.
    """

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        self.pooling = checks.choice("pooling", pooling, POOLINGS)

    def call(self, tokens, padding_mask=None):
        if self.pooling == "token":
            return tokens[:, 0]
        if self.pooling == "last" or (
            self.pooling == "last_token" and padding_mask is None
        ):
            return tokens[:, -1]
        # A sum over tokens in half precision is coarse.
        wide = ops.cast(tokens, "float32")
        if padding_mask is None:
            return ops.cast(ops.mean(wide, axis=1), tokens.dtype)
        weights = ops.cast(padding_mask, "int32")  # (B,T)
        if self.pooling == "last_token":
            places = ops.arange(0, ops.shape(tokens)[1], dtype="int32")
            # Of padding alone, the first place is taken.
            last = ops.max(places * weights, axis=1, keepdims=True)
            weights = places[None, :] == last
        weights = ops.cast(weights, "float32")
        total = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        pooled = ops.einsum("btd,bt->bd", wide, weights / total)
        return ops.cast(pooled, tokens.dtype)

    def compute_output_shape(self, tokens_shape, padding_mask_shape=None):
        return tokens_shape[0], tokens_shape[-1]

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}

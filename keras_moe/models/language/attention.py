"""Self-attention of language models: causal, masked, rotary, cached."""

import keras
from keras import ops

from keras_moe.models.layers.attention import add_projections
from keras_moe.models.layers.attention import at_least_float32
from keras_moe.scalars import keep

PACKAGE = "keras_moe"
HIDDEN = -1e9  # a logit of a token that is not seen; finite on purpose


def rotate(heads, positions, base=10_000.0):
    """Rotary positions: turn pairs (x_i, x_{i+H/2}) of heads (B,T,N,H).

    Args:
        heads: (B,T,N,H).
        positions: (T,) or (B,T), the place of each token.
        base: of the wave lengths.
    """
    half = int(heads.shape[-1]) // 2  # a tensor under PyTorch's tracer
    dtype = at_least_float32(heads)
    steps = ops.arange(0, half, dtype=dtype) / half
    omega = ops.power(ops.cast(base, dtype), -steps)  # (H/2,)
    angles = ops.cast(positions, dtype)[..., None] * omega  # (…,T,H/2)
    angles = ops.concatenate([angles, angles], axis=-1)[..., None, :]
    wide = ops.cast(heads, dtype)
    turned = ops.concatenate([-wide[..., half:], wide[..., :half]], axis=-1)
    wide = wide * ops.cos(angles) + turned * ops.sin(angles)
    return ops.cast(wide, heads.dtype)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CausalAttention(keras.layers.Layer):
    """Lets each token read a mixture of the tokens up to itself.

    Args:
        num_heads: number of heads.
        head_dim: features of a head; by default features / num_heads.
        causal: whether later tokens are hidden.
        rotary: whether queries and keys are turned by their positions.
        use_bias: whether the projections have biases.
        scale: factor of the logits beside 1/sqrt(head_dim).
        dropout: rate of dropout on the weights, in training.
    """

    def __init__(
        self,
        num_heads,
        head_dim=None,
        causal=True,
        rotary=False,
        use_bias=True,
        scale=1.0,
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.causal = causal
        self.rotary = rotary
        self.use_bias = use_bias
        self.scale = scale
        self.dropout = dropout

    def build(self, input_shape):
        features = input_shape[-1]
        head = self.head_dim or features // self.num_heads
        self.logit_scale = self.scale * head**-0.5
        add_projections(self, features, head, self.use_bias)
        self.attention_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.built = True

    def call(
        self,
        tokens,
        padding_mask=None,
        cache=None,
        index=None,
        places=None,
        training=None,
    ):
        """Outputs (B,Q,D), and the cache if one is given.

        Args:
            tokens: (B,Q,D).
            padding_mask: `None` or (B,T), which keys are no padding.
            cache: `None` or (B,2,T,N,H), keys and values of earlier calls.
            index: with a cache, the row of it that the first of `tokens` has.
            places: (B,Q) or (Q,), the positions of `tokens`, without padding;
                by default their rows.
            training: whether dropout is applied.
        """
        start = 0 if index is None else index
        rows = start + ops.arange(0, ops.shape(tokens)[1], dtype="int32")
        queries, keys = self.query(tokens), self.key(tokens)
        if self.rotary:
            places = rows if places is None else places
            queries, keys = rotate(queries, places), rotate(keys, places)
        values = self.value(tokens)
        if cache is not None:
            at = [0, start, 0, 0]
            keys = ops.slice_update(cache[:, 0], at, keys)
            values = ops.slice_update(cache[:, 1], at, values)
            cache = ops.stack([keys, values], axis=1)
        outputs = self.out(
            self._mix(queries, keys, values, rows, padding_mask, training)
        )
        return outputs if cache is None else (outputs, cache)

    def _mix(self, queries, keys, values, rows, padding_mask, training):
        queries = queries * self.logit_scale
        logits = ops.einsum("bqnh,btnh->bnqt", queries, keys)
        logits = ops.cast(logits, at_least_float32(logits))
        seen = None
        if self.causal:
            keys_at = ops.arange(0, ops.shape(keys)[1], dtype="int32")
            seen = (keys_at[None, :] <= rows[:, None])[None, None]
        if padding_mask is not None:
            whole = ops.cast(padding_mask, "bool")[:, None, None, :]
            seen = whole if seen is None else ops.logical_and(seen, whole)
        if seen is not None:
            logits = keep(seen, logits, HIDDEN)
        weights = ops.cast(ops.softmax(logits, axis=-1), values.dtype)
        weights = self.attention_dropout(weights, training=training)
        return ops.einsum("bnqt,btnh->bqnh", weights, values)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            causal=self.causal,
            rotary=self.rotary,
            use_bias=self.use_bias,
            scale=self.scale,
            dropout=self.dropout,
        )
        return config

"""Attention over tokens: masked, causal, rotary and cached where asked."""

import keras
from keras import ops

from keras_moe import policies
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep


def at_least_float32(tensor) -> str:
    """The dtype for sums that half precision is too coarse for."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float64" if dtype == "float64" else "float32"


def add_projections(layer, features, head_dim, use_bias=True):
    """Give an attention layer `query`, `key`, `value` and `out`, all built.

    The first three map (B,T,D) to heads (B,T,N,H), the last one maps back.

    Args:
        layer: that has `num_heads`.
        features: D.
        head_dim: H.
        use_bias: whether they have biases.
    """
    # Glorot's limit for D -> heads · head. Keras takes a kernel (D,N,H) for
    # one with a receptive field, and would draw it far too small.
    limit = (6 / (features + layer.num_heads * head_dim)) ** 0.5

    def add(name, equation, bias_axes, input_shape, output_shape):
        projection = keras.layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=bias_axes if use_bias else None,
            kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
            dtype=policies.within(layer, name),
            name=name,
        )
        projection.build(input_shape)
        setattr(layer, name, projection)

    tokens = (None, None, features)
    heads = (None, None, layer.num_heads, head_dim)
    for name in ("query", "key", "value"):
        add(name, "btd,dnh->btnh", "nh", tokens, heads[1:])
    add("out", "btnh,nhd->btd", "d", heads, tokens[1:])


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
    halves = ops.concatenate([-wide[..., half:], wide[..., :half]], axis=-1)
    wide = wide * ops.cos(angles) + halves * ops.sin(angles)
    return ops.cast(wide, heads.dtype)


@keras.saving.register_keras_serializable(package="keras_moe")
class Attention(keras.layers.Layer):
    """Lets each query read a mixture of the tokens, in several heads.

    weights = softmax over tokens of norm(Q)·norm(K)·scale/sqrt(head_dim),
    where the norms, LayerNorm without bias over the features of a head, are
    there only with `qk_norm`.

    Args:
        num_heads: number of heads.
        head_dim: features of a head; by default features / num_heads.
        causal: whether a query reads the tokens up to its own row alone.
        rotary: whether queries and keys are rotated by their positions.
        qk_norm: whether queries and keys are normalised.
        use_bias: whether the projections have biases.
        scale: factor of the logits beside 1/sqrt(head_dim).
        dropout: rate of dropout on the weights, in training.
        epsilon: epsilon of the norms.
    """

    def __init__(
        self,
        num_heads,
        head_dim=None,
        causal=False,
        rotary=False,
        qk_norm=False,
        use_bias=True,
        scale=1.0,
        dropout=0.0,
        epsilon=1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.causal = causal
        self.rotary = rotary
        self.qk_norm = qk_norm
        self.use_bias = use_bias
        self.scale = scale
        self.dropout = dropout
        self.epsilon = epsilon

    def build(self, query_shape, tokens_shape=None):
        features = query_shape[-1]
        if self.head_dim is None and features % self.num_heads:
            raise ValueError(
                f"num_heads must divide the {features} features; received "
                f"num_heads={self.num_heads}."
            )
        head = self.head_dim or features // self.num_heads
        self.logit_scale = self.scale * head**-0.5
        add_projections(self, features, head, self.use_bias)
        self.query_norm = self.key_norm = None
        if self.qk_norm:
            for name in ("query_norm", "key_norm"):
                norm = keras.layers.LayerNormalization(
                    epsilon=self.epsilon,
                    center=False,
                    dtype=self.dtype_policy,
                    name=name,
                )
                norm.build((None, None, self.num_heads, head))
                setattr(self, name, norm)
        self.attention_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.built = True

    def call(
        self,
        query,
        tokens=None,
        padding_mask=None,
        cache=None,
        index=None,
        places=None,
        training=None,
    ):
        """Return outputs (B,Q,D), and the cache if one is given.

        Args:
            query: (B,Q,D).
            tokens: (B,T,D), what is read; `query` by default.
            padding_mask: `None` or (B,T), 1 for tokens and 0 for padding.
            cache: `None` or (B,2,T,N,H), keys and values of earlier calls.
            index: with a cache, the row of it that the first query has.
            places: (B,Q) or (Q,), the positions of `query`, without padding;
                by default their rows.
            training: whether dropout is applied.
        """
        tokens = query if tokens is None else tokens
        start = 0 if index is None else index
        rows = start + ops.arange(0, ops.shape(query)[1], dtype="int32")
        queries = self.query(query)  # (B,Q,N,H)
        keys = self.key(tokens)  # (B,T,N,H)
        values = self.value(tokens)  # (B,T,N,H)
        if self.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.rotary:
            places = rows if places is None else places
            queries, keys = rotate(queries, places), rotate(keys, places)
        if cache is not None:
            at = [0, start, 0, 0]
            keys = ops.slice_update(cache[:, 0], at, keys)
            values = ops.slice_update(cache[:, 1], at, values)
            cache = ops.stack([keys, values], axis=1)
        visible = self._visible(rows, keys, padding_mask)
        outputs = self.out(self._mix(queries, keys, values, visible, training))
        return outputs if cache is None else (outputs, cache)

    def _visible(self, rows, keys, padding_mask):
        """`None` or (B|1,1,Q|1,T), the keys that each query may read."""
        visible = None
        if self.causal:
            columns = ops.arange(0, ops.shape(keys)[1], dtype="int32")
            visible = (columns[None, :] <= rows[:, None])[None, None]
        if padding_mask is not None:
            tokens = ops.cast(padding_mask, "bool")[:, None, None, :]
            visible = (
                tokens if visible is None else ops.logical_and(visible, tokens)
            )
        return visible

    def _mix(self, queries, keys, values, visible, training):
        if visible is None and not (training and self.dropout > 0):
            return ops.dot_product_attention(
                queries, keys, values, scale=self.logit_scale
            )
        queries = queries * self.logit_scale
        logits = ops.einsum("bqnh,btnh->bnqt", queries, keys)
        logits = ops.cast(logits, at_least_float32(logits))
        if visible is not None:
            logits = keep(visible, logits, MASKED)
        weights = ops.cast(ops.softmax(logits, axis=-1), values.dtype)
        weights = self.attention_dropout(weights, training=training)
        return ops.einsum("bnqt,btnh->bqnh", weights, values)

    def compute_output_shape(self, query_shape, tokens_shape=None):
        return query_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            causal=self.causal,
            rotary=self.rotary,
            qk_norm=self.qk_norm,
            use_bias=self.use_bias,
            scale=self.scale,
            dropout=self.dropout,
            epsilon=self.epsilon,
        )
        return config

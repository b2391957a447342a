"""Attention over tokens, the MLP, and pooling by attention."""

import keras
from keras import ops

from keras_moe import activations
from keras_moe import policies

PACKAGE = "keras_moe"


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


@keras.saving.register_keras_serializable(package=PACKAGE)
class Attention(keras.layers.Layer):
    """Lets each query read a mixture of the tokens, in several heads.

    weights = softmax over tokens of norm(Q)·norm(K)/sqrt(head_dim), where the
    norms, LayerNorm without bias over the features of a head, are there only
    with `qk_norm`.

    Args:
        num_heads: number of heads, which must divide the features.
        qk_norm: whether queries and keys are normalised.
        dropout: rate of dropout on the weights, in training.
        epsilon: of the norms.
    """

    def __init__(
        self, num_heads, qk_norm=False, dropout=0.0, epsilon=1e-6, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.qk_norm = qk_norm
        self.dropout = dropout
        self.epsilon = epsilon

    def build(self, query_shape, tokens_shape=None):
        features = query_shape[-1]
        if features % self.num_heads:
            raise ValueError(
                f"num_heads must divide the {features} features; received "
                f"num_heads={self.num_heads}."
            )
        head = features // self.num_heads
        self.scale = head**-0.5
        heads_shape = (None, None, self.num_heads, head)
        add_projections(self, features, head)
        self.query_norm = self.key_norm = None
        if self.qk_norm:
            for name in ("query_norm", "key_norm"):
                norm = keras.layers.LayerNormalization(
                    epsilon=self.epsilon,
                    center=False,
                    dtype=self.dtype_policy,
                    name=name,
                )
                norm.build(heads_shape)
                setattr(self, name, norm)
        self.attention_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.built = True

    def call(self, query, tokens=None, training=None):
        tokens = query if tokens is None else tokens
        queries = self.query(query)  # (B,Q,N,H)
        keys = self.key(tokens)  # (B,T,N,H)
        values = self.value(tokens)  # (B,T,N,H)
        if self.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if training and self.dropout > 0:
            mixed = self._mix_with_dropout(queries, keys, values)
        else:
            mixed = ops.dot_product_attention(queries, keys, values)
        return self.out(mixed)  # (B,Q,D)

    def _mix_with_dropout(self, queries, keys, values):
        queries = queries * self.scale
        logits = ops.einsum("bqnh,btnh->bnqt", queries, keys)
        logits = ops.cast(logits, at_least_float32(logits))
        weights = ops.softmax(logits, axis=-1)
        weights = ops.cast(weights, values.dtype)
        weights = self.attention_dropout(weights, training=True)
        return ops.einsum("bnqt,btnh->bqnh", weights, values)

    def compute_output_shape(self, query_shape, tokens_shape=None):
        return query_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            qk_norm=self.qk_norm,
            dropout=self.dropout,
            epsilon=self.epsilon,
        )
        return config


@keras.saving.register_keras_serializable(package=PACKAGE)
class FeedForward(keras.layers.Layer):
    """Maps each token by itself: down(activation(up(x))).

    Args:
        intermediate_dim: hidden features.
        activation: of the hidden features.
        dropout: rate of dropout on the hidden features, in training.
    """

    def __init__(
        self, intermediate_dim, activation="gelu_tanh", dropout=0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activations.get(activation)
        self.dropout = dropout

    def build(self, input_shape):
        features = input_shape[-1]
        self.up = keras.layers.Dense(
            self.intermediate_dim,
            dtype=policies.within(self, "up"),
            name="up",
        )
        self.up.build(input_shape)
        self.hidden_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="hidden_dropout"
        )
        self.down = keras.layers.Dense(
            features, dtype=policies.within(self, "down"), name="down"
        )
        self.down.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, tokens, training=None):
        activation = activations.exportable(self.activation)
        hidden = activation(self.up(tokens))
        hidden = self.hidden_dropout(hidden, training=training)
        return self.down(hidden)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            intermediate_dim=self.intermediate_dim,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
        )
        return config


@keras.saving.register_keras_serializable(package=PACKAGE)
class AttentionPooling(keras.layers.Layer):
    """Reads a sequence (B,T,D) into one vector (B,D) by a learned query.

    a = attention(probe, tokens); a + mlp(norm(a)), vmoe's `MapHead`.

    Args:
        num_heads: heads of the attention.
        mlp_dim: hidden features of the MLP.
        qk_norm: whether queries and keys are normalised.
        activation: of hidden features.
        epsilon: of the norms.
    """

    def __init__(
        self,
        num_heads,
        mlp_dim,
        qk_norm=False,
        activation="gelu_tanh",
        epsilon=1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.qk_norm = qk_norm
        self.activation = activations.get(activation)
        self.epsilon = epsilon

    def build(self, input_shape):
        features = input_shape[-1]
        one = (None, 1, features)
        self.probe = self.add_weight(
            name="probe",
            shape=(1, 1, features),
            initializer="glorot_uniform",
        )
        self.attention = Attention(
            self.num_heads,
            qk_norm=self.qk_norm,
            epsilon=self.epsilon,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.attention.build(one, input_shape)
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(one)
        self.mlp = FeedForward(
            self.mlp_dim, self.activation, dtype=self.dtype_policy, name="mlp"
        )
        self.mlp.build(one)
        self.built = True

    def call(self, tokens):
        batch = ops.shape(tokens)[0]
        probe = ops.broadcast_to(self.probe, (batch, 1, self.probe.shape[-1]))
        pooled = self.attention(ops.cast(probe, tokens.dtype), tokens)
        pooled = pooled + self.mlp(self.norm(pooled))
        return ops.squeeze(pooled, axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[-1]

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            qk_norm=self.qk_norm,
            activation=activations.serialize(self.activation),
            epsilon=self.epsilon,
        )
        return config

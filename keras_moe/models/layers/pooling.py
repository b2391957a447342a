"""Pooling of a sequence by attention."""

import keras
from keras import ops

from keras_moe import activations
from keras_moe.models.layers.attention import Attention
from keras_moe.models.layers.feed_forward import FeedForward


@keras.saving.register_keras_serializable(package="keras_moe")
class AttentionPooling(keras.layers.Layer):
    """Reads a sequence (B,T,D) into one vector (B,D) by a learned query.

    a = attention(probe, tokens); a + mlp(norm(a)), vmoe's `MapHead`.

    Args:
        num_heads: heads of the attention.
        mlp_dim: hidden features of the MLP.
        qk_norm: whether queries and keys are normalised.
        activation: activation of hidden features.
        epsilon: epsilon of the norms.
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

    def build(self, tokens_shape, padding_mask_shape=None):
        features = tokens_shape[-1]
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
        self.attention.build(one, tokens_shape)
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(one)
        self.mlp = FeedForward(
            self.mlp_dim, self.activation, dtype=self.dtype_policy, name="mlp"
        )
        self.mlp.build(one)
        self.built = True

    def call(self, tokens, padding_mask=None):
        batch = ops.shape(tokens)[0]
        probe = ops.broadcast_to(self.probe, (batch, 1, self.probe.shape[-1]))
        pooled = self.attention(
            ops.cast(probe, tokens.dtype), tokens, padding_mask=padding_mask
        )
        pooled = pooled + self.mlp(self.norm(pooled))
        return ops.squeeze(pooled, axis=1)

    def compute_output_shape(self, tokens_shape, padding_mask_shape=None):
        return tokens_shape[0], tokens_shape[-1]

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

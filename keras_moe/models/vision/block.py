"""Blocks of a transformer whose MLP may be any of the four layers."""

import keras
from keras import ops

from keras_moe import activations
from keras_moe import grouping
from keras_moe import recomputation
from keras_moe.models.layers.attention import Attention
from keras_moe.models.layers.feed_forward import FeedForward
from keras_moe.models.layers.routers import ROUTERS


@keras.saving.register_keras_serializable(package="keras_moe")
class TransformerBlock(keras.layers.Layer):
    """Adds to each token what attention, and then an MLP or MoE, makes of it.

    x = x + attention(norm(x)), x = x + mlp(norm(x)), as in vmoe/nn/vit_moe.py.

    Args:
        num_heads: heads of the attention.
        mlp_dim: hidden features of the MLP, or of each expert.
        router: `None` (an MLP), `"soft"`, `"expert_choice"` or
            `"token_choice"`.
        router_options: arguments of that layer. `intermediate_dim`,
            `activation` and `dropout` are the block's unless given. `"soft"`
            takes `group_size` too, tokens that are mixed with each other:
            runs of the whole batch's tokens.
        qk_norm: whether queries and keys are normalised.
        activation: activation of hidden features.
        dropout: rate of dropout on both branches and on hidden features.
        attention_dropout: rate of dropout on attention weights.
        epsilon: epsilon of the norms.
        recompute: whether gradients compute the block again, see
            `keras_moe.layers.Recompute`.
    """

    def __init__(
        self,
        num_heads,
        mlp_dim,
        router=None,
        router_options=None,
        qk_norm=False,
        activation="gelu_tanh",
        dropout=0.0,
        attention_dropout=0.0,
        epsilon=1e-6,
        recompute=False,
        **kwargs,
    ):
        # The layers in it cast what they read; `recomputation` needs variables
        # as they are.
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.router = router
        self.router_options = dict(router_options or {})
        self.qk_norm = qk_norm
        self.activation = activations.get(activation)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.epsilon = epsilon
        self.recompute = recompute

    def build(self, input_shape):
        common = {"dtype": self.dtype_policy}
        norm = {"epsilon": self.epsilon, **common}
        self.attention_norm = keras.layers.LayerNormalization(
            name="attention_norm", **norm
        )
        self.attention = Attention(
            self.num_heads,
            qk_norm=self.qk_norm,
            dropout=self.attention_dropout,
            epsilon=self.epsilon,
            name="attention",
            **common,
        )
        self.mlp_norm = keras.layers.LayerNormalization(name="mlp_norm", **norm)
        self.mlp = self._make_mlp()
        self.branch_dropout = keras.layers.Dropout(
            self.dropout, name="branch_dropout", **common
        )
        for layer in (self.attention_norm, self.attention, self.mlp_norm):
            layer.build(input_shape)
        batch, tokens, features = input_shape
        if self.router == "soft":
            tokens = self.router_options.get("group_size") or tokens
        self.mlp.build((batch, tokens, features))
        self.built = True

    def _make_mlp(self):
        place = {"name": "mlp", "dtype": self.dtype_policy}
        shared = {"activation": self.activation, "dropout": self.dropout}
        if self.router is None:
            return FeedForward(self.mlp_dim, **shared, **place)
        options = {"intermediate_dim": self.mlp_dim, **shared}
        options.update(self.router_options, **place | {"name": "moe"})
        if self.router == "soft":
            options.pop("group_size", None)
        return ROUTERS[self.router](**options)

    def call(self, tokens, padding_mask=None, training=None):
        tokens = ops.cast(tokens, self.compute_dtype)
        arguments = (tokens, padding_mask, training)
        if not training or not self.recompute:
            return self._transform(*arguments)
        return recomputation.call(self, self._transform, *arguments)

    def _transform(self, tokens, padding_mask, training):
        branch = self.attention(
            self.attention_norm(tokens),
            padding_mask=padding_mask,
            training=training,
        )
        tokens = tokens + self.branch_dropout(branch, training=training)
        branch = self._mlp(self.mlp_norm(tokens), padding_mask, training)
        return tokens + self.branch_dropout(branch, training=training)

    def _mlp(self, tokens, mask, training):
        if self.router is None:
            return self.mlp(tokens, training=training)
        mask = None if mask is None else ops.cast(mask, "bool")
        size = self.router_options.get("group_size")
        if self.router != "soft" or size is None:
            return self.mlp(tokens, mask=mask, training=training)
        grouped, mask, ungroup = grouping.runs(tokens, mask, size)
        return ungroup(self.mlp(grouped, mask=mask, training=training))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            router=self.router,
            router_options=self.router_options,
            qk_norm=self.qk_norm,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            epsilon=self.epsilon,
            recompute=self.recompute,
        )
        return config

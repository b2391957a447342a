"""One block of a language model, and its norms."""

import keras
from keras import ops

from keras_moe import activations
from keras_moe import recomputation
from keras_moe.models.layers.attention import Attention
from keras_moe.models.layers.attention import at_least_float32
from keras_moe.models.layers.feed_forward import FeedForward
from keras_moe.models.layers.routers import ROUTERS


@keras.saving.register_keras_serializable(package="keras_moe")
class RMSNorm(keras.layers.Layer):
    """Scales each token to a root mean square of one, times γ, plus β.

    llm-random's norm, which has β where others have none.
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(
            name="gamma", shape=shape, initializer="ones"
        )
        self.beta = self.add_weight(
            name="beta", shape=shape, initializer="zeros"
        )
        self.built = True

    def call(self, tokens):
        dtype = at_least_float32(tokens)
        wide = ops.cast(tokens, dtype)
        # `ops.mean` of float64 is computed in float32.
        mean = ops.sum(ops.square(wide), axis=-1, keepdims=True)
        mean = mean / self.gamma.shape[0]
        wide = wide * ops.rsqrt(mean + self.epsilon)
        wide = wide * ops.cast(self.gamma, dtype)
        return ops.cast(wide + ops.cast(self.beta, dtype), tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


NORMS = {"layer_norm": keras.layers.LayerNormalization, "rms_norm": RMSNorm}


@keras.saving.register_keras_serializable(package="keras_moe")
class DecoderBlock(keras.layers.Layer):
    """Adds to each token what attention, and then an MLP or MoE, makes of it.

    x = x + attention(norm(x)), x = x + mlp(norm(x)), or, with
    `norm_placement="post"`, x = norm(x + attention(x)), x = norm(x + mlp(x)).

    Args:
        num_heads: heads of the attention.
        mlp_dim: hidden features of the MLP.
        router: `None` (an MLP) or one of `routers.LANGUAGE`.
        router_options: arguments of that layer.
        norm: a key of `NORMS`.
        norm_placement: `"pre"` or `"post"`.
        attention_options: arguments of `Attention` beside `num_heads`;
            `causal` is `True` by default.
        activation: activation of hidden features.
        dropout: rate of dropout on both branches, in training.
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
        norm="layer_norm",
        norm_placement="pre",
        attention_options=None,
        activation="gelu_tanh",
        dropout=0.0,
        epsilon=1e-5,
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
        self.norm = norm
        self.norm_placement = norm_placement
        self.attention_options = dict(attention_options or {})
        self.activation = activations.get(activation)
        self.dropout = dropout
        self.epsilon = epsilon
        self.recompute = recompute

    def build(self, input_shape):
        place = {"dtype": self.dtype_policy}
        options = {"causal": True, **self.attention_options}
        self.attention = Attention(
            self.num_heads, name="attention", **options, **place
        )
        if self.router is None:
            self.mlp = FeedForward(
                self.mlp_dim, self.activation, name="mlp", **place
            )
        else:
            options = {"activation": self.activation, **self.router_options}
            if options.get("expert") is None:
                options.setdefault("intermediate_dim", self.mlp_dim)
            self.mlp = ROUTERS[self.router](name="moe", **options, **place)
        make = NORMS[self.norm]
        self.attention_norm = make(
            epsilon=self.epsilon, name="attention_norm", **place
        )
        self.mlp_norm = make(epsilon=self.epsilon, name="mlp_norm", **place)
        self.branch_dropout = keras.layers.Dropout(
            self.dropout, name="branch_dropout", **place
        )
        for layer in (
            self.attention,
            self.mlp,
            self.attention_norm,
            self.mlp_norm,
        ):
            layer.build(input_shape)
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
        tokens = ops.cast(tokens, self.compute_dtype)
        arguments = (tokens, padding_mask, cache, index, places, training)
        if not training or not self.recompute:
            return self._transform(*arguments)
        return recomputation.call(self, self._transform, *arguments)

    def _transform(self, tokens, padding_mask, cache, index, places, training):
        pre = self.norm_placement == "pre"
        branch = self.attention_norm(tokens) if pre else tokens
        branch = self.attention(
            branch,
            padding_mask=padding_mask,
            cache=cache,
            index=index,
            places=places,
            training=training,
        )
        if cache is not None:
            branch, cache = branch
        tokens = tokens + self.branch_dropout(branch, training=training)
        if not pre:
            tokens = self.attention_norm(tokens)
        branch = self.mlp(
            self.mlp_norm(tokens) if pre else tokens,
            training=training,
            **self.mlp_mask(tokens, padding_mask, cache, index),
        )
        tokens = tokens + self.branch_dropout(branch, training=training)
        if not pre:
            tokens = self.mlp_norm(tokens)
        return tokens if cache is None else (tokens, cache)

    def mlp_mask(self, tokens, padding_mask, cache, index):
        """The MoE layer's `mask`, if it has one: padding is masked.

        Published models mix padding like tokens (`padding="zeros"`, and Expert
        Choice over the batch). Of a cache's later places, all are tokens.
        """
        options = self.router_options
        as_tokens = (
            self.router in (None, "batch_expert_choice")
            or options.get("padding") == "zeros"
        )
        whole = cache is None or isinstance(index, int)
        if padding_mask is None or as_tokens or not whole:
            return {}
        if cache is not None:  # the mask is of all its places
            end = index + ops.shape(tokens)[1]
            padding_mask = padding_mask[:, index:end]
        return {"mask": ops.cast(padding_mask, "bool")}

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            router=self.router,
            router_options=self.router_options,
            norm=self.norm,
            norm_placement=self.norm_placement,
            attention_options=self.attention_options,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
            epsilon=self.epsilon,
            recompute=self.recompute,
        )
        return config

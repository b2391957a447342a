"""Transformer language models with Mixture of Tokens in some blocks."""

import keras
import keras_hub
from keras import ops

from keras_moe import activations
from keras_moe import checks
from keras_moe.models import presets
from keras_moe.models.decoder_block import NORMS
from keras_moe.models.decoder_block import ROUTERS
from keras_moe.models.decoder_block import DecoderBlock


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTBackbone(presets.BackbonePresets, keras_hub.models.Backbone):
    """Reads token ids into features; some blocks mix tokens for experts.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: heads of each attention.
        hidden_dim: D, features of a token.
        mlp_dim: hidden features of the dense blocks' MLPs, and of each expert
            unless `router_options` has `intermediate_dim`.
        max_sequence_length: number of learned positions.
        router: `"mixture_of_tokens"`, `"expert_choice"`, `"token_choice"` or
            `None`, the dense model.
        moe_layers: indices of the blocks with experts; by default all.
        router_options: arguments of that layer, such as
            `{"num_experts": 32, "group_size": 32}`.
        causal: whether later tokens are hidden from earlier ones.
        head_dim: features of a head; by default hidden_dim / num_heads.
        positions: `"learned"` or `"rotary"`.
        norm: `"layer_norm"` or `"rms_norm"`.
        norm_placement: `"pre"` or `"post"`.
        final_norm: whether the last block's output is normalised.
        attention_bias: whether attention projections have biases.
        tie_embeddings: whether the head is the embedding, transposed.
        scale_attention_by_layer: whether block i divides its attention logits
            by i + 1.
        activation: of hidden features.
        dropout: rate of dropout.
        layer_norm_epsilon: of the norms.
        dtype: dtype or policy of the layers.

    Inputs: a dictionary of `token_ids` (batch, tokens), integer, and
    `padding_mask` (batch, tokens), 1 for tokens and 0 for padding. Output:
    (batch, tokens, D).

    **An example's output depends on its batch-mates** where Mixture of Tokens
    mixes over the batch: with `inference_mixing="group"`, its default.
    `"self"` and `"argmax"` make it independent.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        max_sequence_length: int = 1024,
        router: str | None = "mixture_of_tokens",
        moe_layers=None,
        router_options: dict | None = None,
        causal: bool = True,
        head_dim: int | None = None,
        positions: str = "learned",
        norm: str = "layer_norm",
        norm_placement: str = "pre",
        final_norm: bool = True,
        attention_bias: bool = True,
        tie_embeddings: bool = True,
        scale_attention_by_layer: bool = False,
        activation="gelu_tanh",
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        dtype=None,
        **kwargs,
    ):
        checks.choice("positions", positions, ("learned", "rotary"))
        checks.choice("norm", norm, NORMS)
        checks.choice("norm_placement", norm_placement, ("pre", "post"))
        if router is not None:
            checks.choice("router", router, ROUTERS)
        if moe_layers is None:
            moe_layers = range(num_layers) if router else ()
        moe_layers = tuple(moe_layers)
        router_options = dict(router_options or {})

        # === Layers ===
        self.token_embedding = keras_hub.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = None
        if positions == "learned":
            self.position_embedding = keras_hub.layers.PositionEmbedding(
                max_sequence_length,
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                dtype=dtype,
                name="position_embedding",
            )
        self.embedding_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embedding_dropout"
        )
        self.blocks = [
            DecoderBlock(
                num_heads,
                mlp_dim,
                router=router if index in moe_layers else None,
                router_options=router_options if index in moe_layers else None,
                norm=norm,
                norm_placement=norm_placement,
                attention_options={
                    "head_dim": head_dim,
                    "causal": causal,
                    "rotary": positions == "rotary",
                    "use_bias": attention_bias,
                    "scale": (
                        1 / (index + 1) if scale_attention_by_layer else 1.0
                    ),
                    "dropout": dropout,
                },
                activation=activation,
                dropout=dropout,
                epsilon=layer_norm_epsilon,
                dtype=dtype,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        self.norm_layer = None
        if final_norm:
            self.norm_layer = NORMS[norm](
                epsilon=layer_norm_epsilon, dtype=dtype, name="norm"
            )

        # === The path from ids to features ===
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
        tokens = self.embedding_dropout(self.embed(token_ids))
        for block in self.blocks:
            tokens = block(tokens, padding_mask=padding_mask)
        if self.norm_layer is not None:
            tokens = self.norm_layer(tokens)
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=tokens,
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.mlp_dim = mlp_dim
        self.max_sequence_length = max_sequence_length
        self.router = router
        self.moe_layers = moe_layers
        self.router_options = router_options
        self.causal = causal
        self.head_dim = head_dim
        self.positions = positions
        self.norm = norm
        self.norm_placement = norm_placement
        self.final_norm = final_norm
        self.attention_bias = attention_bias
        self.tie_embeddings = tie_embeddings
        self.scale_attention_by_layer = scale_attention_by_layer
        self.activation = activations.get(activation)
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon

    def embed(self, token_ids, start=0):
        """Features of ids whose first stands at place `start`."""
        tokens = self.token_embedding(token_ids)
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding(tokens, start_index=start)
        return tokens

    def empty_cache(self, batch, length):
        """Zeros (batch, layers, 2, length, heads, head_dim)."""
        head = self.head_dim or self.hidden_dim // self.num_heads
        shape = (batch, self.num_layers, 2, length, self.num_heads, head)
        return ops.zeros(shape, dtype=self.compute_dtype)

    def call_with_cache(self, token_ids, cache, index):
        """Features of ids at place `index`, and the cache with them."""
        tokens = self.embed(token_ids, index)
        caches = []
        for number, block in enumerate(self.blocks):
            tokens, kept = block(tokens, cache=cache[:, number], index=index)
            caches.append(kept)
        if self.norm_layer is not None:
            tokens = self.norm_layer(tokens)
        return tokens, ops.stack(caches, axis=1)

    def get_config(self):
        config = super().get_config()
        for name in (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "mlp_dim",
            "max_sequence_length",
            "router",
            "moe_layers",
            "router_options",
            "causal",
            "head_dim",
            "positions",
            "norm",
            "norm_placement",
            "final_norm",
            "attention_bias",
            "tie_embeddings",
            "scale_attention_by_layer",
            "dropout",
            "layer_norm_epsilon",
        ):
            config[name] = getattr(self, name)
        config["activation"] = activations.serialize(self.activation)
        return config

"""The text tower: a transformer that reads token ids in both directions."""

import keras
import keras_hub

from keras_moe import activations
from keras_moe import checks
from keras_moe import policies
from keras_moe.models.layers import router_arguments
from keras_moe.models.layers.routers import TEXT
from keras_moe.models.presets import loading
from keras_moe.models.vision.block import TransformerBlock

INTEGERS = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "mlp_dim",
    "max_sequence_length",
)


@keras.saving.register_keras_serializable(package="keras_moe")
class TextTransformerBackbone(
    loading.BackbonePresets, keras_hub.models.Backbone
):
    """Reads token ids; each token attends to all others of its text.

    ids → embedding → learned positions → pre-norm blocks (attention; MLP, or
    a mixture of experts in `moe_layers`) → norm. The blocks are those of
    `MoEViTBackbone`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: heads of each attention; must divide `hidden_dim`.
        hidden_dim: D, features of a token.
        mlp_dim: hidden features of the MLPs and of each expert.
        max_sequence_length: number of positions, which no text may exceed.
        router: `"soft"` (`SoftMoE`), `"expert_choice"` (`ExpertChoiceMoE`),
            `"token_choice"` (`TokenChoiceMoE`), `"mixture_of_tokens"`
            (`MixtureOfTokens`) or `None`, the dense model.
        moe_layers: indices of the blocks with experts, from 0; by default the
            last half of them.
        router_options: arguments of that layer, as in `MoEViTBackbone`.
        qk_norm: whether queries and keys are normalised, over each head.
        mask_padding: whether padding is hidden from attention and routers.
            vmoe's text tower attends to it: `False`.
        activation: activation of hidden features; vmoe's is `"gelu_tanh"`.
        dropout: rate of dropout on embeddings, branches and hidden features.
        attention_dropout: rate of dropout on attention weights.
        layer_norm_epsilon: epsilon of all norms.
        dtype: dtype or policy of the layers.

    Inputs: a dictionary of `token_ids` (batch, tokens), integer, and
        `padding_mask` (batch, tokens), 1 for tokens and 0 for padding. Output:
        (batch, tokens, D), in the compute dtype, at padding too.

    Texts of a batch do not meet, unless the router mixes over the batch
    (`group_size` of `"soft"` beyond one text, `"mixture_of_tokens"`).

    Raises:
        ValueError: for an argument that does not fit, and for a text with
            more tokens than there are positions.

    Reference: `TextTransformer` of vmoe/projects/contrastive/models.py.

    Example:

    >>> import numpy as np
    >>> from keras_moe.models import TextTransformerBackbone
    >>> tower = TextTransformerBackbone(
    ...     vocabulary_size=100, num_layers=2, num_heads=2, hidden_dim=16,
    ...     mlp_dim=32, max_sequence_length=8)
    >>> ids = np.array([[5, 9, 0, 0]])
    >>> tuple(tower({"token_ids": ids, "padding_mask": ids > 0}).shape)
    (1, 4, 16)
    """

    # Blocks that some tokens skip, which the other backbones may have.
    depth_layers, depths = (), ()

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        max_sequence_length: int = 16,
        router: str | None = None,
        moe_layers=None,
        router_options: dict | None = None,
        qk_norm: bool = False,
        mask_padding: bool = True,
        activation="gelu_tanh",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        dtype=None,
        **kwargs,
    ):
        loading.check_backbone_arguments(self, kwargs)
        given = locals()
        sizes = {name: checks.integer(name, given[name]) for name in INTEGERS}
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim, {hidden_dim}; received "
                f"{num_heads}."
            )
        moe_layers = router_arguments.last_half(
            router, moe_layers, num_layers, TEXT
        )
        router_options = router_arguments.of_blocks(router, router_options)
        qk_norm = checks.flag("qk_norm", qk_norm)
        mask_padding = checks.flag("mask_padding", mask_padding)
        activation = checks.resolve(
            "activation", activations.get, activation, "a Keras activation"
        )
        dropout = checks.rate("dropout", dropout)
        attention_dropout = checks.rate("attention_dropout", attention_dropout)
        layer_norm_epsilon = checks.real(
            "layer_norm_epsilon", layer_norm_epsilon, exclusive=True
        )
        dtype = checks.resolve(
            "dtype", keras.dtype_policies.get, dtype, "a Keras dtype or policy"
        )

        # === Layers ===
        # Their names are not those of the image tower: PyTorch lists weights
        # by their paths.
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.token_embedding = keras.layers.Embedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=normal,
            dtype=policies.below(dtype, "text_embedding"),
            name="text_embedding",
        )
        self.position_embedding = keras_hub.layers.PositionEmbedding(
            max_sequence_length,
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=dtype,
            name="text_positions",
        )
        self.embedding_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="text_dropout"
        )
        self.blocks = [
            TransformerBlock(
                num_heads,
                mlp_dim,
                router=router if index in moe_layers else None,
                router_options=(
                    router_options if index in moe_layers else None
                ),
                qk_norm=qk_norm,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                epsilon=layer_norm_epsilon,
                dtype=dtype,
                name=f"text_block_{index}",
            )
            for index in range(num_layers)
        ]
        self.norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="text_norm"
        )

        # === The path from ids to features ===
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
        tokens = self.token_embedding(token_ids)
        tokens = tokens + self.position_embedding(tokens)
        tokens = self.embedding_dropout(tokens)
        for block in self.blocks:
            tokens = block(
                tokens, padding_mask=padding_mask if mask_padding else None
            )
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=self.norm(tokens),
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        for name, value in sizes.items():
            setattr(self, name, value)
        self.router = router
        self.moe_layers = moe_layers
        self.router_options = router_options
        self.qk_norm = qk_norm
        self.mask_padding = mask_padding
        self.activation = activation
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon

    def call(self, inputs, training=None, mask=None):
        """Features (batch, tokens, D) of `token_ids` and `padding_mask`."""
        length = inputs["token_ids"].shape[1]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                "token_ids must have at most max_sequence_length tokens, "
                f"{self.max_sequence_length}; received {length}."
            )
        return super().call(inputs, training=training, mask=mask)

    def get_config(self):
        config = super().get_config()
        for name in (
            *INTEGERS,
            "router",
            "moe_layers",
            "router_options",
            "qk_norm",
            "mask_padding",
            "dropout",
            "attention_dropout",
            "layer_norm_epsilon",
        ):
            config[name] = getattr(self, name)
        config["activation"] = activations.serialize(self.activation)
        return config

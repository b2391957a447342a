"""Transformer language models with Mixture of Tokens in some blocks."""

import keras
import keras_hub

from keras_moe import activations
from keras_moe import policies
from keras_moe.models.checkpoints import mot
from keras_moe.models.language import arguments as language_arguments
from keras_moe.models.language import resizing
from keras_moe.models.language.block import NORMS
from keras_moe.models.language.block import DecoderBlock
from keras_moe.models.language.caching import CachedBackbone
from keras_moe.models.language.inference_mixing import MixingBackbone
from keras_moe.models.language.padding import places_of
from keras_moe.models.layers import depths
from keras_moe.models.presets import finding
from keras_moe.models.presets import loading


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTBackbone(
    MixingBackbone,
    CachedBackbone,
    loading.BackbonePresets,
    keras_hub.models.Backbone,
):
    """Reads token ids into features; some blocks mix tokens for experts.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: heads of each attention.
        hidden_dim: D, features of a token.
        mlp_dim: hidden features of the dense blocks' MLPs, and of each expert
            unless `router_options` has `intermediate_dim`.
        max_sequence_length: number of learned positions, which no sequence
            may exceed; of no effect on rotary ones.
        router: `"mixture_of_tokens"`, `"expert_choice"`, `"token_choice"`,
            `"batch_expert_choice"` (llm-random's Expert Choice, among the
            tokens of the whole batch) or `None`, the dense model.
        moe_layers: indices of the blocks with experts; by default all.
        router_options: arguments of that layer, such as
            `{"num_experts": 32, "group_size": 32}`.
        depth_layers: indices of the blocks in `MixtureOfDepths`: a share of
            a text's tokens passes them, with attention among these alone.
            None of `moe_layers` where the router mixes the batch's tokens.
        depth_options: arguments of `MixtureOfDepths`, such as
            `{"capacity": 0.125, "inference": "predictor"}`. With `"top_k"`,
            its default, and in training, whether a token passes depends on
            later ones.
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
        activation: activation of hidden features.
        dropout: rate of dropout.
        layer_norm_epsilon: epsilon of the norms.
        dtype: dtype or policy of the layers.
        recompute: whether gradients compute each block again, from its
            inputs, instead of keeping what is in it; see
            `keras_moe.layers.Recompute`. Weights are the same either way.

    Inputs: a dictionary of `token_ids` (batch, tokens), integer, and
    `padding_mask` (batch, tokens), 1 for tokens and 0 for padding, which no
    token attends to. Output: (batch, tokens, D), in the compute dtype.

    A token's position is the number of tokens before it: padding on the left
    takes no position, and a text reads the same on either side. The code that
    the `mot` format comes from counts places instead; the two agree where
    padding is on the right.

    **An example's output depends on its batch-mates** where Mixture of Tokens
    mixes over the batch: with `inference_mixing="group"`, its default.
    `"self"` and `"argmax"` make it independent; `inference_mixing` can be set
    on a model that is loaded. Then no row, whatever its length and on which
    side it is padded, changes another one.

    Raises:
        ValueError: for an argument that does not fit, and for a sequence
            that is longer than the learned positions.
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
        depth_layers=(),
        depth_options: dict | None = None,
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
        recompute: bool = False,
        **kwargs,
    ):
        loading.check_backbone_arguments(self, kwargs)
        arguments = language_arguments.checked(locals())
        moe_layers = arguments["moe_layers"]
        router_options = arguments["router_options"]
        dtype = arguments.pop("dtype")

        # === Layers ===
        self.token_embedding = keras_hub.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=policies.below(dtype, "token_embedding"),
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
                recompute=recompute,
                dtype=dtype,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        around = depths.around(
            self.blocks,
            arguments["depth_layers"],
            arguments["depth_options"],
            (None, None, hidden_dim),
            dtype,
        )
        self.depths = list(around.values())
        self.norm_layer = None
        if final_norm:
            self.norm_layer = NORMS[norm](
                epsilon=layer_norm_epsilon, dtype=dtype, name="norm"
            )

        # === The path from ids to features ===
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
        places = places_of(padding_mask)
        tokens = self.embedding_dropout(self.embed(token_ids, places))
        for index, block in enumerate(self.blocks):
            if index in around:
                tokens = around[index](tokens, padding_mask, places)
            else:
                tokens = block(tokens, padding_mask=padding_mask, places=places)
        if self.norm_layer is not None:
            tokens = self.norm_layer(tokens)
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=tokens,
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        for name, value in arguments.items():
            setattr(self, name, value)

    @property
    def longest_sequence(self) -> int | None:
        """Tokens that a sequence may have; `None` with rotary positions."""
        learned = self.positions == "learned"
        return self.max_sequence_length if learned else None

    def check_length(self, length) -> None:
        """Raise an error for a length, if known, without positions for it."""
        limit = self.longest_sequence
        if None not in (limit, length) and length > limit:
            raise ValueError(
                "token_ids must have at most max_sequence_length tokens, "
                f"{limit}; received {length}."
            )

    def call(self, inputs, training=None, mask=None):
        """Features (batch, tokens, D) of `token_ids` and `padding_mask`.

        **An example's output depends on its batch-mates** where Mixture of
        Tokens mixes over the batch: always with `training=True`, otherwise
        with `inference_mixing` `"group"` (the default) or `"discrete"`.
        """
        self.check_length(inputs["token_ids"].shape[1])
        return super().call(inputs, training=training, mask=mask)

    @classmethod
    def from_preset(cls, preset, load_weights: bool = True, **kwargs):
        """A backbone with the weights of a preset, or of the `mot` format.

        Args:
            preset: a name of `list_presets()`, a folder, or
                `"hf://organisation/name"`, with `"@revision"` behind it if
                wanted. The folder or repository is a preset, or has the
                `mot` format of the Hub (`config.json` with `"model_type":
                "mot"`, weights as safetensors), which is read as it is, one
                tensor at a time.
            load_weights: whether to read the weights, or start new ones.
            **kwargs: arguments of the class, instead of the saved ones.
                Another `max_sequence_length` keeps the first positions, and
                further ones start as in a new model. Another
                `vocabulary_size` keeps the first ids, and further ones start
                as the mean of all saved ones, so that their logits are the
                mean of the others. For a moment, the weights of both sizes
                are in memory.

        Raises:
            ValueError: where a file is missing, damaged or of another model;
                for another `vocabulary_size` of a quantised embedding.
        """
        sizes = resizing.sizes_of(kwargs)
        folder = finding.resolve(preset)
        if mot.recognises(folder):
            backbone = cls.from_published(
                mot.MoTCheckpoint(folder), load_weights, **kwargs
            )
        else:
            backbone = super().from_preset(folder, load_weights, **kwargs)
        return resizing.backbone(backbone, sizes)

    @classmethod
    def from_published(cls, found, load_weights: bool = True, **kwargs):
        """A backbone of a `mot_format.Folder`; see `from_preset`."""
        backbone = cls(**{**found.backbone, **kwargs})
        if load_weights:
            found.fill(backbone)
        return backbone

    def embed(self, token_ids, places):
        """Features of ids (batch, tokens) at these places of their texts.

        Args:
            token_ids: (batch, tokens) integers.
            places: (batch, tokens) or (tokens,) integers.
        """
        tokens = self.token_embedding(token_ids)
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding(tokens, positions=places)
        return tokens

    def get_config(self):
        config = super().get_config()
        for name in language_arguments.KEPT:
            config[name] = getattr(self, name)
        config["activation"] = activations.serialize(self.activation)
        return config

"""The vision transformer with mixtures of experts in some of its blocks."""

import keras
import keras_hub
from keras import ops

from keras_moe import activations
from keras_moe import checks
from keras_moe.models.layers import depths
from keras_moe.models.layers import router_arguments
from keras_moe.models.layers.routers import VISION
from keras_moe.models.presets import loading
from keras_moe.models.vision import architectures
from keras_moe.models.vision import arguments
from keras_moe.models.vision.block import TransformerBlock
from keras_moe.models.vision.positions import POSITIONS
from keras_moe.models.vision.positions import placed
from keras_moe.models.vision.positions import sincos2d
from keras_moe.models.vision.stem import ConvolutionalStem


@keras.saving.register_keras_serializable(package="keras_moe")
class MoEViTBackbone(loading.BackbonePresets, keras_hub.models.Backbone):
    """Reads an image as patches, each of which some blocks route to experts.

    [convolutions] → patches → linear map → [class token] → positions →
    pre-norm blocks (attention; MLP, or a mixture of experts in `moe_layers`)
    → norm.

    Args:
        image_shape: (height, width, channels), or (channels, height, width)
            with `data_format="channels_first"`. Any size whose sides the
            patch's divide; a preset may be loaded at another size than it was
            trained at (`from_preset(…, image_shape=…)`), and learned
            positions are then resized as vmoe does it.
        patch_size: side of a patch in pixels, or (height, width).
        num_layers: number of blocks.
        num_heads: heads of each attention; must divide `hidden_dim`.
        hidden_dim: D, features of a token.
        mlp_dim: hidden features of the MLPs and of each expert.
        router: `"soft"` (`SoftMoE`), `"expert_choice"` (`ExpertChoiceMoE`),
            `"token_choice"` (`TokenChoiceMoE`) or `None`, the dense model.
        moe_layers: indices of the blocks with experts, from 0. By default the
            last half of them, as in the Soft MoE paper.
        router_options: arguments of that layer, such as
            `{"num_experts": 16, "slots_per_expert": 1}`. `intermediate_dim`,
            `activation` and `dropout` are the backbone's unless given.
            `"soft"` takes `group_size` too: tokens that are mixed with each
            other, runs of the whole batch's tokens; by default one image's.
        depth_layers: indices of the blocks in `MixtureOfDepths`: a share of
            an image's tokens passes them, with attention among these alone.
            The class token competes as a patch does.
        depth_options: arguments of `MixtureOfDepths`, such as
            `{"capacity": 0.5}`.
        qk_norm: whether queries and keys are normalised, over each head.
        positions: `"learned"`, `"sincos2d"` (fixed) or `"none"`.
        class_token: whether a learned token is put in front of the patches.
        stem_dims: channels of 3×3 convolutions of stride 2 that read the
            image first (arXiv 2106.14881), each with a norm and the
            activation. 2 to the power of their number must divide
            `patch_size`; patches are as many as without them.
        activation: activation of hidden features; vmoe's is `"gelu_tanh"`.
        dropout: rate of dropout on embeddings, branches and hidden features.
        attention_dropout: rate of dropout on attention weights.
        layer_norm_epsilon: epsilon of all norms.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for
            Keras' own setting.
        dtype: dtype or policy of the layers.
        recompute: whether gradients compute each block again, from its
            inputs, instead of keeping what is in it; see
            `keras_moe.layers.Recompute`. Weights are the same either way.

    Input: images (batch, height, width, channels), float, in [-1, 1] for the
        presets (`MoEViTImageConverter` does that). Output: tokens (batch,
        patches, D), the class token first if there is one.

    Images of a batch do not meet, unless `group_size` is larger than the
    tokens of an image.

    Raises:
        ValueError: for an argument that does not fit.

    Reference: `VisionTransformerMoe` of vmoe/nn/vit_moe.py; arXiv 2308.00951,
        2106.05974.

    Example:

    >>> import numpy as np
    >>> from keras_moe.models import MoEViTBackbone
    >>> backbone = MoEViTBackbone(
    ...     image_shape=(28, 28, 1), patch_size=7, num_layers=2, num_heads=2,
    ...     hidden_dim=32, mlp_dim=64, router="soft",
    ...     router_options={"num_experts": 8, "slots_per_expert": 2})
    >>> tuple(backbone(np.zeros((3, 28, 28, 1), "float32")).shape)
    (3, 16, 32)
    """

    def __init__(
        self,
        image_shape,
        patch_size,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        router: str | None = None,
        moe_layers=None,
        router_options: dict | None = None,
        depth_layers=(),
        depth_options: dict | None = None,
        qk_norm: bool = False,
        positions: str = "learned",
        class_token: bool = False,
        stem_dims=(),
        activation="gelu_tanh",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        data_format: str | None = None,
        dtype=None,
        recompute: bool = False,
        **kwargs,
    ):
        loading.check_backbone_arguments(self, kwargs)
        if data_format is None:
            data_format = keras.config.image_data_format()
        checks.choice(
            "data_format", data_format, ("channels_last", "channels_first")
        )
        num_layers = checks.integer("num_layers", num_layers)
        num_heads = checks.integer("num_heads", num_heads)
        hidden_dim = checks.integer("hidden_dim", hidden_dim)
        mlp_dim = checks.integer("mlp_dim", mlp_dim)
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim, {hidden_dim}; received "
                f"{num_heads}."
            )
        patch = arguments.patch(patch_size)
        grid, image_shape = arguments.grid(image_shape, patch, data_format)
        stem_dims, kernel = arguments.stem(stem_dims, patch)
        moe_layers = router_arguments.last_half(
            router, moe_layers, num_layers, VISION
        )
        router_options = router_arguments.of_blocks(router, router_options)
        depth_layers, depth_options = depths.checked(
            depth_layers, depth_options, num_layers
        )
        checks.choice("positions", positions, POSITIONS)
        if positions == "sincos2d":
            sincos2d(grid, hidden_dim)  # raises if it cannot be
        class_token = checks.flag("class_token", class_token)
        qk_norm = checks.flag("qk_norm", qk_norm)
        activation = checks.resolve(
            "activation", activations.get, activation, "a Keras activation"
        )
        dropout = checks.rate("dropout", dropout)
        attention_dropout = checks.rate("attention_dropout", attention_dropout)
        layer_norm_epsilon = checks.real(
            "layer_norm_epsilon", layer_norm_epsilon, exclusive=True
        )
        recompute = checks.flag("recompute", recompute)
        dtype = checks.resolve(
            "dtype", keras.dtype_policies.get, dtype, "a Keras dtype or policy"
        )

        # === Layers ===
        self.stem = None
        if stem_dims:
            self.stem = ConvolutionalStem(
                stem_dims,
                activation,
                layer_norm_epsilon,
                dtype=dtype,
                name="stem",
            )
        self.patch_embedding = keras.layers.Conv2D(
            hidden_dim,
            kernel,
            strides=kernel,
            data_format="channels_last",
            kernel_initializer="lecun_normal",
            dtype=dtype,
            name="patch_embedding",
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
                recompute=recompute,
                dtype=dtype,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        shape = (None, grid[0] * grid[1] + int(class_token), hidden_dim)
        around = depths.around(
            self.blocks, depth_layers, depth_options, shape, dtype
        )
        self.depths = list(around.values())
        self.norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="norm"
        )

        # === The path from images to tokens ===
        images = keras.Input(shape=image_shape, name="images")
        pixels = images
        if data_format == "channels_first":
            pixels = ops.transpose(images, (0, 2, 3, 1))
        if stem_dims:
            pixels = self.stem(pixels)
        tokens = self.patch_embedding(pixels)  # (B,rows,columns,D)
        tokens = keras.layers.Reshape(
            (grid[0] * grid[1], hidden_dim), dtype=dtype, name="tokens"
        )(tokens)
        tokens = placed(tokens, grid, positions, class_token, dtype)
        if dropout > 0:
            tokens = keras.layers.Dropout(
                dropout, dtype=dtype, name="embedding_dropout"
            )(tokens)
        for index, block in enumerate(self.blocks):
            tokens = around.get(index, block)(tokens)
        super().__init__(
            inputs=images, outputs=self.norm(tokens), dtype=dtype, **kwargs
        )

        # === Config ===
        self.image_shape = image_shape
        self.patch_size = patch
        self.grid = grid
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.mlp_dim = mlp_dim
        self.router = router
        self.moe_layers = moe_layers
        self.router_options = router_options
        self.depth_layers = depth_layers
        self.depth_options = depth_options
        self.qk_norm = qk_norm
        self.positions = positions
        self.class_token = class_token
        self.stem_dims = stem_dims
        self.activation = activation
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.recompute = recompute
        self.data_format = data_format

    @classmethod
    def _check_complete(cls, folder, kwargs):
        super()._check_complete(folder, kwargs)
        arguments.check_channels(folder, kwargs)

    @classmethod
    def from_architecture(cls, name: str, **overrides):
        """The backbone of a paper's configuration, with new weights.

        Args:
            name: one of `keras_moe.models.ARCHITECTURES`.
            **overrides: arguments to change, such as `image_shape`.
        """
        return cls(**{**architectures.get(name), **overrides})

    def get_config(self):
        config = super().get_config()
        config.update(
            image_shape=self.image_shape,
            patch_size=self.patch_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.hidden_dim,
            mlp_dim=self.mlp_dim,
            router=self.router,
            moe_layers=self.moe_layers,
            router_options=self.router_options,
            depth_layers=self.depth_layers,
            depth_options=self.depth_options,
            qk_norm=self.qk_norm,
            positions=self.positions,
            class_token=self.class_token,
            stem_dims=self.stem_dims,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            layer_norm_epsilon=self.layer_norm_epsilon,
            recompute=self.recompute,
            data_format=self.data_format,
        )
        return config

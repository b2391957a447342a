"""Two towers that map images and texts into one space."""

import pathlib

import keras
import keras_hub

from keras_moe import checks
from keras_moe import files
from keras_moe import policies
from keras_moe.models.presets import configurations
from keras_moe.models.presets import loading
from keras_moe.models.two_tower import towers
from keras_moe.models.two_tower.similarity import Similarity

TOWERS = ("image_tower", "text_tower")
FLOATS = ("float16", "bfloat16", "float32", "float64")
PROJECTIONS = ("both", "text", "image", "none")


@keras.saving.register_keras_serializable(package="keras_moe")
class MoETwoTowerBackbone(loading.BackbonePresets, keras_hub.models.Backbone):
    """Maps images and texts to unit vectors whose products tell who belongs.

    z = unit(projection(pooling(tower(inputs)))) for images and for texts, and
    logits = exp(s) · z_image z_textᵀ + b, with learned scalars s and b.

    Args:
        image_tower: a backbone of KerasHub that reads images, such as
            `MoEViTBackbone` or `keras_hub.models.CLIPVisionEncoder`.
        text_tower: a backbone of KerasHub that reads `token_ids`, such as
            `TextTransformerBackbone` or `keras_hub.models.CLIPTextEncoder`.
            It gets `padding_mask` if it reads it, and `segment_ids` of 0.
            Weights of both towers have different paths; most backbones of
            KerasHub put their `name` before them.
        projection_dim: width of the embeddings; by default the width of the
            image tower's features.
        projection: which features a linear map with bias brings to that
            width: those of `"both"` towers, the `"text"`, the `"image"` or
            `"none"`. By default `"both"` where `projection_dim` is given,
            else `"text"`, as in vmoe.
        image_pooling: `"gap"` (mean of the tokens), `"token"` (the first),
            `"map"` (attention pooling, of a `MoEViTBackbone`) or `"pooled"`
            (what the tower itself gives). By default `"pooled"` of a tower
            that gives one vector of each image, else `"gap"`.
        text_pooling: `"last"` (the last position, be it padding; vmoe's),
            `"last_token"`, `"mean"` of the tokens without padding, `"token"`,
            `"map"` or `"pooled"`; by default `"pooled"` or `"last"`.
        initial_logit_scale: what exp(s) starts from.
        initial_logit_bias: what b starts from.
        max_logit_scale: largest exp(s), or `None`: Keras' optimisers set s
            back to its logarithm after a step beyond it. CLIP has 100, with
            the softmax loss; vmoe and SigLIP have no bound.
        dtype: dtype or policy of poolings and projections; by default the
            image tower's.

    Inputs: a dictionary of `images`, as the image tower reads them,
        `token_ids` and `padding_mask` (batch, tokens), integer, 1 for tokens
        and 0 for padding. Output: a dictionary of `image_embeddings` and
        `text_embeddings` (batch, projection_dim), float32, of length 1. The
        numbers of images and texts may differ.

    `image_encoder` and `text_encoder` are models of one tower each, from its
    inputs to the embeddings; `similarity` holds the weights `log_scale`, s,
    and `bias`, b, and gives `logits`.

    Raises:
        ValueError: for an argument that does not fit, and for a tower that
            reads or gives something else than a tower does.

    Reference: `TwoTower` of vmoe/projects/contrastive/models.py; arXiv
        2303.15343, 2103.00020.

    Example:

    >>> import numpy as np
    >>> from keras_moe import models
    >>> backbone = models.MoETwoTowerBackbone(
    ...     models.MoEViTBackbone(
    ...         image_shape=(8, 8, 3), patch_size=4, num_layers=2,
    ...         num_heads=2, hidden_dim=16, mlp_dim=32, router="soft",
    ...         router_options={"num_experts": 4, "slots_per_expert": 1}),
    ...     models.TextTransformerBackbone(
    ...         vocabulary_size=100, num_layers=1, num_heads=2, hidden_dim=8,
    ...         mlp_dim=16, max_sequence_length=6))
    >>> ids = np.array([[5, 9, 0], [7, 0, 0]])
    >>> outputs = backbone({
    ...     "images": np.ones((2, 8, 8, 3)), "token_ids": ids,
    ...     "padding_mask": ids > 0})
    >>> tuple(outputs["text_embeddings"].shape)
    (2, 16)
    """

    def __init__(
        self,
        image_tower,
        text_tower,
        projection_dim: int | None = None,
        projection: str | None = None,
        image_pooling: str | None = None,
        text_pooling: str | None = None,
        initial_logit_scale: float = 10.0,
        initial_logit_bias: float = -10.0,
        max_logit_scale: float | None = None,
        dtype=None,
        **kwargs,
    ):
        loading.check_backbone_arguments(self, kwargs)
        towers.check("image_tower", image_tower)
        towers.check("text_tower", text_tower)
        towers.check_paths(image_tower, text_tower)
        projection_dim = checks.optional_integer(
            "projection_dim", projection_dim
        )
        if projection is None:
            projection = "text" if projection_dim is None else "both"
        checks.choice("projection", projection, PROJECTIONS)
        initial_logit_scale = checks.real(
            "initial_logit_scale", initial_logit_scale, exclusive=True
        )
        initial_logit_bias = checks.real(
            "initial_logit_bias", initial_logit_bias, minimum=-float("inf")
        )
        max_logit_scale = checks.optional_real(
            "max_logit_scale", max_logit_scale, initial_logit_scale
        )
        if dtype is None:
            dtype = _default(image_tower.dtype_policy)
        dtype = checks.resolve(
            "dtype", keras.dtype_policies.get, dtype, "a Keras dtype or policy"
        )

        # === The paths from images and texts to embeddings ===
        images, outputs = towers.read_image(image_tower)
        features, image_pooling = towers.pooled(
            "image", image_tower, outputs, image_pooling, dtype=dtype
        )
        texts, outputs = towers.read_text(text_tower)
        text_features, text_pooling = towers.pooled(
            "text",
            text_tower,
            outputs,
            text_pooling,
            padding_mask=texts["padding_mask"],
            dtype=dtype,
        )
        if projection_dim is None:
            projection_dim = features.shape[-1]
        self.similarity = Similarity(
            initial_logit_scale,
            initial_logit_bias,
            max_logit_scale,
            dtype="float32",
            name="similarity",
        )

        def embed(kind, features):
            if projection in ("both", kind):
                name = f"{kind}_projection"
                features = keras.layers.Dense(
                    projection_dim,
                    dtype=policies.below(dtype, name),
                    name=name,
                )(features)
            elif features.shape[-1] != projection_dim:
                raise ValueError(
                    f"projection must be 'both' or {kind!r} where the "
                    f"features of the {kind} tower, {features.shape[-1]}, do "
                    f"not have the width of the embeddings, {projection_dim}; "
                    f"received {projection!r}."
                )
            return self.similarity(features)

        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_encoder = keras.Model(
            images, embed("image", features), name="image_encoder"
        )
        self.text_encoder = keras.Model(
            texts, embed("text", text_features), name="text_encoder"
        )
        super().__init__(
            inputs={"images": images, **texts},
            outputs={
                "image_embeddings": self.image_encoder(images),
                "text_embeddings": self.text_encoder(texts),
            },
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.projection_dim = projection_dim
        self.projection = projection
        self.image_pooling = image_pooling
        self.text_pooling = text_pooling
        self.initial_logit_scale = initial_logit_scale
        self.initial_logit_bias = initial_logit_bias
        self.max_logit_scale = max_logit_scale

    def logits(self, image_embeddings, text_embeddings):
        """(images, texts), exp(s) · z_image z_textᵀ + b, float32."""
        return self.similarity.logits(image_embeddings, text_embeddings)

    @classmethod
    def _defaults(cls, folder, given):
        defaults = super()._defaults(folder, given)
        if not (pathlib.Path(folder) / configurations.CONFIG).is_file():
            return defaults
        return defaults | _towers(folder, given.get("dtype"))

    @classmethod
    def _of_folder(cls, folder, dtype=None):
        """The backbone that a preset's folder describes, with new weights.

        Args:
            folder: of the preset.
            dtype: of both towers, see `_towers`.
        """
        config = _config(folder)
        config["dtype"] = _resolved(config["dtype"], dtype)
        given = {"dtype": dtype}
        return cls.from_config({**config, **cls._defaults(folder, given)})

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in TOWERS:
            if isinstance(config[name], dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name]
                )
        return super().from_config(config)

    def get_config(self):
        config = super().get_config()
        config.update(
            image_tower=keras.saving.serialize_keras_object(self.image_tower),
            text_tower=keras.saving.serialize_keras_object(self.text_tower),
            projection_dim=self.projection_dim,
            projection=self.projection,
            image_pooling=self.image_pooling,
            text_pooling=self.text_pooling,
            initial_logit_scale=self.initial_logit_scale,
            initial_logit_bias=self.initial_logit_bias,
            max_logit_scale=self.max_logit_scale,
        )
        return config


def _config(folder):
    path = pathlib.Path(folder) / configurations.CONFIG
    return files.read_json(path, finite=False)["config"]


def _towers(folder, dtype):
    """Both towers of a preset's folder.

    Args:
        folder: of the preset.
        dtype: of both towers. By default Keras' own for those that were saved
            with one kind of float, as KerasHub has it, and else what they were
            saved with, such as a quantised policy.
    """
    found = {}
    for name in TOWERS:
        tower = _config(folder)[name]
        config = tower["config"]
        config["dtype"] = _resolved(config["dtype"], dtype)
        found[name] = keras.saving.deserialize_keras_object(tower)
    return found


def _resolved(saved, dtype):
    """The policy to load with, serialised, of one that was saved."""
    if dtype is None:
        name = keras.dtype_policies.get(saved).name
        if name not in FLOATS:
            return saved
        dtype = keras.config.dtype_policy()
    return keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))


def _default(policy):
    """The policy of layers that a map says nothing of."""
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy.default_policy
    return policy

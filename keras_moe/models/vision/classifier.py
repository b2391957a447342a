"""Image classification with `MoEViTBackbone`."""

import math

import keras
import keras_hub

from keras_moe import activations
from keras_moe import checks
from keras_moe import policies
from keras_moe.models import task_inputs
from keras_moe.models.checkpoints import torch_parameters
from keras_moe.models.layers.pooling import AttentionPooling
from keras_moe.models.presets import loading
from keras_moe.models.vision import arguments
from keras_moe.models.vision import class_names as class_names_of
from keras_moe.models.vision import preprocessing
from keras_moe.models.vision.backbone import MoEViTBackbone

POOLINGS = ("gap", "token", "map")


@keras.saving.register_keras_serializable(package="keras_moe")
class MoEViTImageClassifier(
    loading.TaskPresets,
    task_inputs.CheckedTask,
    class_names_of.NamedClasses,
    keras_hub.models.ImageClassifier,
):
    """Image classifier on a `MoEViTBackbone`.

    tokens → pooling → [tanh of a linear map] → dropout → linear head.

    Args:
        backbone: a `MoEViTBackbone`.
        num_classes: number of classes.
        preprocessor: a `MoEViTImageClassifierPreprocessor`, or `None` for
            images that are ready.
        pooling: `"gap"` (mean of the tokens), `"token"` (the class token) or
            `"map"` (attention pooling by a learned query).
        representation_size: features of a linear map with tanh before the
            head, or `None`.
        activation: activation of the outputs; `None` returns logits.
        dropout: rate of dropout before the head, in training.
        head_kernel_initializer: initialiser of the head's kernel; vmoe starts
            from zero.
        head_bias: what the head's bias starts from, such as
            -log(num_classes).
        head_dtype: dtype or policy of the head; the backbone's by default.
        class_names: what the classes are called, in the order of the outputs,
            or `None`; `classify` and `decode_predictions` give these names.

    `from_preset` takes a name of `keras_moe.models.list_presets()`, a folder,
    or a repository of the Hub. `num_classes=` there starts a new head, whose
    classes have no names unless `class_names=` gives them; `image_shape=` reads
    images of another size, with as many channels.

    Raises:
        ValueError: for an argument that does not fit.

    Reference: `VisionTransformerMoe` of vmoe/nn/vit_moe.py.

    Example:

    >>> import numpy as np
    >>> from keras_moe.models import MoEViTBackbone, MoEViTImageClassifier
    >>> backbone = MoEViTBackbone(
    ...     image_shape=(28, 28, 1), patch_size=7, num_layers=2, num_heads=2,
    ...     hidden_dim=32, mlp_dim=64, router="soft",
    ...     router_options={"num_experts": 8, "slots_per_expert": 2})
    >>> classifier = MoEViTImageClassifier(
    ...     backbone, num_classes=2, class_names=["cat", "dog"])
    >>> images = np.zeros((3, 28, 28, 1))
    >>> classifier.predict(images, verbose=0).shape
    (3, 2)
    >>> [sorted(name for name, _ in best)
    ...  for best in classifier.classify(images[:1], top_k=2)]
    [['cat', 'dog']]
    """

    backbone_cls = MoEViTBackbone
    preprocessor_cls = preprocessing.MoEViTImageClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes: int,
        preprocessor=None,
        pooling: str = "gap",
        representation_size: int | None = None,
        activation=None,
        dropout: float = 0.0,
        head_kernel_initializer="glorot_uniform",
        head_bias: float = 0.0,
        head_dtype=None,
        class_names=None,
        **kwargs,
    ):
        loading.check_task_arguments(self, kwargs)
        if not isinstance(backbone, MoEViTBackbone):
            raise ValueError(
                f"backbone must be a MoEViTBackbone; received {backbone!r}."
            )
        num_classes = checks.integer("num_classes", num_classes)
        class_names = class_names_of.checked(class_names, num_classes)
        checks.choice("pooling", pooling, POOLINGS)
        if pooling == "token" and not backbone.class_token:
            raise ValueError(
                'pooling="token" needs a backbone with class_token=True; '
                "received one without."
            )
        activation = checks.resolve(
            "activation", activations.get, activation, "a Keras activation"
        )
        head_kernel_initializer = checks.resolve(
            "head_kernel_initializer",
            keras.initializers.get,
            head_kernel_initializer,
            "a Keras initialiser",
        )
        representation_size = checks.optional_integer(
            "representation_size", representation_size
        )
        dropout = checks.rate("dropout", dropout)
        head_bias = checks.real("head_bias", head_bias, minimum=-math.inf)
        own_dtype = checks.resolve(
            "head_dtype",
            keras.dtype_policies.get,
            backbone.dtype_policy if head_dtype is None else head_dtype,
            "a Keras dtype or policy",
        )

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        if pooling == "map":
            self.pooler = AttentionPooling(
                backbone.num_heads,
                backbone.mlp_dim,
                qk_norm=backbone.qk_norm,
                activation=backbone.activation,
                epsilon=backbone.layer_norm_epsilon,
                dtype=own_dtype,
                name="pooler",
            )
        elif pooling == "gap":
            self.pooler = keras.layers.GlobalAveragePooling1D(
                # Tokens are rows whatever the format of the images.
                data_format="channels_last",
                dtype=own_dtype,
                name="pooler",
            )
        else:
            self.pooler = FirstToken(dtype=own_dtype, name="pooler")
        if representation_size is not None:
            self.pre_logits = keras.layers.Dense(
                representation_size,
                activation="tanh",
                dtype=policies.below(own_dtype, "pre_logits"),
                name="pre_logits",
            )
        self.output_dropout = keras.layers.Dropout(
            dropout,
            dtype=own_dtype,
            name="output_dropout",
        )
        self.output_dense = keras.layers.Dense(
            num_classes,
            activation=activation,
            kernel_initializer=head_kernel_initializer,
            bias_initializer=keras.initializers.Constant(head_bias),
            dtype=policies.below(own_dtype, "predictions"),
            name="predictions",
        )

        # === The path from images to logits ===
        features = self.pooler(backbone(backbone.input))
        if representation_size is not None:
            features = self.pre_logits(features)
        logits = self.output_dense(self.output_dropout(features))
        self.activation = activation  # compile() chooses the loss by it
        # KerasHub's ImageClassifier would pool two axes of an image here.
        keras_hub.models.Task.__init__(
            self, inputs=backbone.input, outputs=logits, **kwargs
        )
        torch_parameters.list_parameters(self)

        # === Config ===
        self.num_classes = num_classes
        self.class_names = class_names
        self.pooling = pooling
        self.representation_size = representation_size
        self.dropout = dropout
        self.head_kernel_initializer = head_kernel_initializer
        self.head_bias = head_bias
        self.head_dtype = head_dtype

    def check_inputs(self, x) -> None:
        """Raise an error unless `x` may be images for the backbone."""
        ours = isinstance(self.preprocessor, self.preprocessor_cls)
        if ours or self.preprocessor is None:
            resizes = ours and self.preprocessor.image_converter is not None
            task_inputs.check_images("x", x, self.backbone, resizes)

    @classmethod
    def _check_complete(cls, folder, kwargs):
        super()._check_complete(folder, kwargs)
        arguments.check_channels(folder, kwargs)

    @classmethod
    def from_config(cls, config):
        # Names of a saved head that is replaced by one of other classes.
        names = config.get("class_names")
        if names is not None and len(names) != config["num_classes"]:
            config = {**config, "class_names": None}
        return super().from_config(config)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        if "num_classes" in kwargs:
            kwargs["class_names"] = class_names_of.checked(
                kwargs.get("class_names"), kwargs["num_classes"]
            )
        task = super().from_preset(preset, load_weights, **kwargs)
        if "image_shape" in kwargs and "preprocessor" not in kwargs:
            # The preset's own, which makes images of the preset's size.
            backbone, preprocessor = task.backbone, task.preprocessor
            if preprocessor and preprocessor.image_converter:
                preprocessor.image_converter.image_size = preprocessing.sides(
                    backbone.image_shape, backbone.data_format
                )
        return task

    def get_config(self):
        # KerasHub's Task adds backbone, preprocessor and name.
        config = keras_hub.models.Task.get_config(self)
        config.update(
            num_classes=self.num_classes,
            pooling=self.pooling,
            representation_size=self.representation_size,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
            head_kernel_initializer=keras.initializers.serialize(
                self.head_kernel_initializer
            ),
            head_bias=self.head_bias,
            class_names=self.class_names and list(self.class_names),
            head_dtype=policies.of_head(
                self, self.head_dtype, self.output_dropout.dtype_policy
            ),
        )
        return config


@keras.saving.register_keras_serializable(package="keras_moe")
class FirstToken(keras.layers.Layer):
    """Takes the first token of each sequence (B,T,D), the class token."""

    def call(self, tokens):
        return tokens[:, 0]

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[-1]

"""Classification by the names of classes."""

import keras
import keras_hub

from keras_moe import activations
from keras_moe import checks
from keras_moe.models.checkpoints import torch_parameters
from keras_moe.models.presets import loading
from keras_moe.models.vision import class_names as class_names_of

HOLE = "{}"


@keras.saving.register_keras_serializable(package="keras_moe")
class ZeroShotClassifier(
    torch_parameters.TorchParameters,
    class_names_of.NamedClasses,
    keras_hub.models.Task,
):
    """Image classifier whose head is made of embeddings of class names.

    logits = exp(s) · z_image z_classesᵀ + b, a dense layer of float32 on the
    image encoder. `MoETwoTower.zero_shot_classifier` makes one. It shares the
    image tower with the model that made it, and saves a copy; it has no text
    tower. So training, quantising or LoRA of one changes the image tower of
    both. The head stays what the text tower gave: make a new classifier after
    that, or take one from a file, which shares nothing.

    Args:
        backbone: the image encoder, a model from images to embeddings.
        class_names: what the classes are called, in the order of the outputs.
        preprocessor: a `MoEViTImageClassifierPreprocessor`, or `None` for
            images that are ready.
        activation: activation of the outputs; `None` returns logits.

    `predict(images)` gives (batch, classes), and `classify(images)` names.

    Raises:
        ValueError: for an argument that does not fit.
    """

    def __init__(
        self,
        backbone,
        class_names,
        preprocessor=None,
        activation=None,
        **kwargs,
    ):
        loading.check_task_arguments(self, kwargs)
        if not isinstance(backbone, keras.Model):
            raise ValueError(
                "backbone must be a keras.Model from images to embeddings; "
                f"{checks.received(backbone)}."
            )
        class_names = class_names_of.checked(class_names, len(class_names))
        activation = checks.resolve(
            "activation", activations.get, activation, "a Keras activation"
        )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.output_dense = keras.layers.Dense(
            len(class_names),
            activation=activation,
            dtype="float32",
            name="predictions",
        )
        super().__init__(
            inputs=backbone.input,
            outputs=self.output_dense(backbone(backbone.input)),
            **kwargs,
        )
        self.activation = activation
        self.num_classes = len(class_names)
        self.class_names = class_names

    def get_config(self):
        # KerasHub's Task adds backbone, preprocessor and name.
        return {
            **super().get_config(),
            "class_names": list(self.class_names),
            "activation": activations.serialize(self.activation),
        }


def prompts(classes, templates) -> list[str]:
    """Each class in each template, class by class.

    Raises:
        ValueError: for no class, one that is given twice or is empty, and a
            template without the place for a class.
    """
    if isinstance(templates, str):
        templates = [templates]
    right = isinstance(templates, (list, tuple)) and len(templates)
    if not right or not all(
        isinstance(one, str) and HOLE in one for one in templates
    ):
        raise ValueError(
            f"templates must be texts with {HOLE!r} where the class goes, at "
            f"least one; {checks.received(templates)}."
        )
    if not isinstance(classes, (list, tuple)) or not len(classes):
        raise ValueError(
            "classes must be a list of at least one name; "
            f"{checks.received(classes)}."
        )
    names = class_names_of.checked(classes, len(classes))
    return [t.replace(HOLE, name) for name in names for t in templates]

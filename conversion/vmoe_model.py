"""vmoe's vision transformers as our models: built, and held to be equal."""

import keras
import numpy as np

from conversion import verify
from conversion.errors import ConversionError
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoEViTImageClassifierPreprocessor
from keras_moe.models import image_converter

LOGITS = ("logits_f32_dispatch", "logits")  # the first that is there


def smaller(transformer):
    """Arguments of a transformer for the small twin."""
    transformer = dict(transformer)
    transformer.update(hidden_dim=8 * transformer["num_heads"], mlp_dim=2)
    options = dict(transformer.get("router_options") or {})
    if "intermediate_dim" in options:
        options["intermediate_dim"] = 2
    if "router" in transformer:
        transformer["router_options"] = options
    return transformer


def enlarge(config, transformer):
    """Turn the config of `smaller` into that of the model, in place."""
    for key in ("hidden_dim", "mlp_dim", "router_options"):
        if key in transformer:
            config[key] = transformer[key]


def build(plan, small=False):
    """The classifier of a plan, or its small twin."""
    backbone, classifier = dict(plan.backbone), dict(plan.classifier)
    if small:
        backbone = smaller(backbone)
        classifier["num_classes"] = 2
        if classifier.get("representation_size"):
            classifier["representation_size"] = 2
    backbone = MoEViTBackbone(
        data_format="channels_last", dtype="float32", **backbone
    )
    converter = image_converter(backbone.image_shape)
    return MoEViTImageClassifier(
        backbone,
        preprocessor=MoEViTImageClassifierPreprocessor(converter),
        compile=small,  # so that the files have an optimiser, as usual
        **classifier,
    )


def edits(plan):
    """Edits that turn the twin's files into those of the model."""

    def of_backbone(config):
        enlarge(config, plan.backbone)

    def of_task(config):
        of_backbone(config["backbone"]["config"])
        for key in ("num_classes", "representation_size"):
            config[key] = plan.classifier.get(key)

    return {"config.json": of_backbone, "task.json": of_task}


def compare(folder, expected, tolerance, used):
    """Hold a written preset against a file of expected arrays.

    The file holds either `images` and `logits` (or `logits_f32_dispatch`,
    which is preferred: logits without the reference's rounding to bfloat16),
    or arrays of the checkpoint by path.

    Args:
        folder: of the preset.
        expected: path of a .npz file.
        tolerance: largest absolute difference of logits.
        used: {path in the checkpoint: our variable's path}.

    Returns:
        A line that says what was compared.
    """
    with verify.arrays(expected) as arrays:
        names = arrays.names
        model = MoEViTImageClassifier.from_preset(str(folder))
        if "images" in names and names & set(LOGITS):
            images = images_of(arrays, model.backbone)
            logits = model(images, training=False)
            name = expected_logits(names)
            return verify.compare_logits(logits, arrays, name, tolerance)
        return compare_arrays(model, arrays, used)


def expected_logits(names):
    """Name of the array of logits, of those of a file."""
    return next(name for name in LOGITS if name in names)


def images_of(arrays, backbone):
    """Images of a file of expected arrays, for a backbone."""
    images = arrays.read("images", rank=4)
    if images.shape[1:] != tuple(backbone.image_shape):
        raise ConversionError(
            f"--verify {arrays.path}: the images must be "
            f"{backbone.image_shape}; they are {images.shape[1:]}."
        )
    return keras.ops.convert_to_tensor(images, "float32")


def compare_arrays(model, arrays, used):
    """Hold the weights of a model against the arrays of a checkpoint.

    Args:
        model: that was loaded.
        arrays: what `verify.arrays` gives.
        used: {path in the checkpoint: our variable's path}.

    Returns:
        A line that says what was compared.
    """
    absent = sorted(set(used) - arrays.names)
    if absent:
        raise ConversionError(
            f"--verify {arrays.path} must hold images and logits, or the "
            f"checkpoint's arrays; it lacks {absent[0]}."
        )
    weights = {w.path: w for w in model.weights}
    for source, ours in used.items():
        value = keras.ops.convert_to_numpy(weights[ours])
        wanted = arrays.read(source).astype("float32")
        if value.size != wanted.size or not np.array_equal(
            value.reshape(-1), wanted.reshape(-1)
        ):
            raise ConversionError(
                f"--verify {arrays.path}: {ours} is not equal to {source}."
            )
    return f"{len(used)} arrays are equal to those of {arrays.path}"

"""Writing a preset tensor by tensor, so that no model is held in memory.

KerasHub writes the preset of a small twin, a model of the same blocks with few
features, whose variables hold their own numbers. The files of the twin tell
where each variable lies; the preset is the same files with the real arrays.
"""

import json
import pathlib

import h5py
import keras
import numpy as np

from conversion.errors import ConversionError
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoEViTImageClassifierPreprocessor
from keras_moe.models import image_converter
from keras_moe.models import presets


def build(plan, small=False):
    """The classifier of a plan, or its small twin."""
    backbone, classifier = dict(plan.backbone), dict(plan.classifier)
    if small:
        backbone.update(hidden_dim=8 * backbone["num_heads"], mlp_dim=2)
        options = dict(backbone.get("router_options") or {})
        if "intermediate_dim" in options:
            options["intermediate_dim"] = 2
        if "router" in backbone:
            backbone["router_options"] = options
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


def write_twin(plan, folder):
    """Write the twin's preset; returns {number: path of a variable}."""
    twin = build(plan, small=True)
    numbers = {}
    for number, variable in enumerate(twin.weights, start=1):
        variable.assign(np.full(variable.shape, number, "float32"))
        numbers[number] = variable.path
    twin.save_to_preset(folder)
    for name, edit in (("config.json", _edit_backbone), ("task.json", _edit)):
        path = pathlib.Path(folder) / name
        config = json.loads(path.read_text())
        edit(config["config"], plan)
        path.write_text(json.dumps(config, indent=4))
    return numbers


def _edit_backbone(config, plan):
    for key in ("hidden_dim", "mlp_dim"):
        config[key] = plan.backbone[key]
    if "router_options" in plan.backbone:
        config["router_options"] = plan.backbone["router_options"]


def _edit(config, plan):
    _edit_backbone(config["backbone"]["config"], plan)
    for key in ("num_classes", "representation_size"):
        config[key] = plan.classifier.get(key)


def fill(folder, numbers, read):
    """Put the real arrays into the files of the twin.

    Args:
        folder: that holds the twin's preset.
        numbers: {number: path of a variable}.
        read: path of a variable → its array.

    Returns:
        The number of values written to the backbone's file.
    """
    left, totals = set(numbers), {}
    for file in sorted(pathlib.Path(folder).glob("*.weights.h5")):
        part = file.with_name(f".{file.name}.part")
        totals[file.name] = 0
        with h5py.File(file) as twin, h5py.File(part, "w") as real:

            def copy(name, item, twin=twin, real=real, file=file):
                if isinstance(item, h5py.Group):
                    made = real.require_group(name)
                elif not presets.is_weight(name):
                    made = real.create_dataset(name, data=item[()])
                else:
                    number = int(np.asarray(item).flat[0])
                    left.remove(number)
                    array = read(numbers[number])
                    totals[file.name] += array.size
                    made = real.create_dataset(name, data=array)
                for key, value in item.attrs.items():
                    made.attrs[key] = value

            for key, value in twin.attrs.items():
                real.attrs[key] = value
            twin.visititems(copy)
        part.replace(file)
    if left:
        missing = ", ".join(numbers[n] for n in sorted(left))
        raise ConversionError(f"no file of the preset holds {missing}.")
    return totals["model.weights.h5"]


def note_parameters(folder, count):
    """Correct the number of parameters in KerasHub's metadata."""
    path = pathlib.Path(folder) / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["parameter_count"] = count
    path.write_text(json.dumps(metadata, indent=4))


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
    with np.load(expected, allow_pickle=False) as arrays:
        names = set(arrays.files)
        model = MoEViTImageClassifier.from_preset(str(folder))
        if "images" in names and names & {"logits", "logits_f32_dispatch"}:
            name = "logits_f32_dispatch"
            name = name if name in names else "logits"
            return _compare_logits(
                model, arrays["images"], arrays[name], name, tolerance
            )
        absent = sorted(set(used) - names)
        if absent:
            raise ConversionError(
                f"--verify {expected} must hold images and logits, or the "
                f"checkpoint's arrays; it lacks {absent[0]}."
            )
        weights = {w.path: w for w in model.weights}
        for source, ours in used.items():
            value = keras.ops.convert_to_numpy(weights[ours])
            wanted = arrays[source].astype("float32")
            if value.size != wanted.size or not np.array_equal(
                value.reshape(-1), wanted.reshape(-1)
            ):
                raise ConversionError(
                    f"--verify: {ours} is not equal to {source} of {expected}."
                )
    return f"{len(used)} arrays are equal to those of {expected}"


def _compare_logits(model, images, wanted, name, tolerance):
    if images.shape[1:] != tuple(model.backbone.image_shape):
        raise ConversionError(
            f"--verify: the images must be {model.backbone.image_shape}; the "
            f"file has {images.shape[1:]}."
        )
    logits = keras.ops.convert_to_numpy(
        model(keras.ops.convert_to_tensor(images, "float32"), training=False)
    )
    if logits.shape != wanted.shape:
        raise ConversionError(
            f"--verify: the model gives logits {logits.shape}; {name} has the "
            f"shape {wanted.shape}."
        )
    difference = float(np.abs(logits - wanted).max())
    if not difference <= tolerance:
        raise ConversionError(
            f"--verify: logits differ from {name} by {difference:.2e}, more "
            f"than {tolerance:.0e}."
        )
    return f"logits differ from {name} by {difference:.1e} at most"

"""Files of LoRA's adapters, which hold all else that was trained with them.

KerasHub writes the adapters alone. Keras leaves the biases of adapted layers
trainable, and a user may train norms or a head; adapters without these, or
beside other frozen weights, give other outputs than those that were trained.
"""

import hashlib
import os
import pathlib

import h5py
import keras
import numpy as np

GROUP = "keras_moe"
TRAINED = f"{GROUP}/trained"
END = ".lora.h5"


def save(model, backbone, filepath, write) -> None:
    """Write adapters, and beside them every other weight that is trained.

    Args:
        model: the backbone or the task whose weights are meant.
        backbone: which has the adapters.
        filepath: ends in `.lora.h5`. Written whole or not at all.
        write: KerasHub's function that writes the adapters to a path.
    """
    path = pathlib.Path(filepath)
    if not path.name.endswith(END):
        write(filepath)  # raises an error
    part = path.with_name(f".{path.name}.part{END}")
    try:
        write(str(part))
        trained = {id(weight) for weight in model.trainable_weights}
        others = _others(model)
        with h5py.File(part, "a") as file:
            group = file.create_group(TRAINED)
            frozen = {}
            for name, weight in others.items():
                if id(weight) in trained:
                    array = keras.ops.convert_to_numpy(weight)
                    # A wider dtype, as HDF5 has no bfloat16.
                    group[name] = array.astype(
                        np.promote_types("float32", array.dtype)
                        if weight.dtype != "bfloat16"
                        else "float32"
                    )
                else:
                    frozen[name] = weight
            about = file[GROUP].attrs
            about["of"] = _kind(model, backbone)
            about["layers"] = sorted(
                {layer.name for layer in _adapted(backbone).values()}
            )
            about["kinds"], about["base"] = digests(frozen)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(model, backbone, filepath, read) -> None:
    """Read what `save` wrote, after all of it was found to fit.

    Args:
        model: as in `save`.
        backbone: as in `save`. Without adapters, it gets those of the file.
        filepath: of the file.
        read: KerasHub's function that reads the adapters of a path.

    Raises:
        ValueError: for a file that is not whole, or of another model, or of
            adapters that were trained beside other weights.
    """
    try:
        with h5py.File(filepath) as file:
            about, arrays = _read(file, filepath)
            rank = int(file["lora/vars/rank"][()])
            indices = {int(name) for name in file["lora"] if name.isdigit()}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{filepath} is not a whole file of adapters: {error}"
        ) from error
    kind = _kind(model, backbone)
    if about["of"] != kind:
        raise ValueError(
            f"{filepath} must hold what was trained of a {kind}; it is of a "
            f"{about['of']}. Call load_lora_weights of the {about['of']}."
        )
    others = _others(model)
    for name, array in arrays.items():
        expected = (
            tuple(others[name].shape) if name in others else "no such one"
        )
        if expected != array.shape:
            raise ValueError(
                f"{filepath} holds {name} with the shape {array.shape}; the "
                f"model has {expected}."
            )
    frozen = {n: w for n, w in others.items() if n not in arrays}
    kinds, base = digests(frozen)
    # In another dtype the numbers of one model differ.
    if kinds == about["kinds"] and base != about["base"]:
        raise ValueError(
            f"{filepath} must be loaded into the model that its adapters were "
            "trained on; the weights that were frozen then are other ones "
            "here. Load those of the preset or file that training began with."
        )
    if not getattr(backbone, "_lora_enabled_layers", []):
        backbone.enable_lora(rank, list(about["layers"]))
    if set(_adapted(backbone)) != indices:
        raise ValueError(
            f"{filepath} holds adapters of the layers "
            f"{', '.join(about['layers'])}, {len(indices)} in all; the model "
            f"has {len(_adapted(backbone))} layers with adapters."
        )
    read(filepath)
    others = _others(model)
    for name, array in arrays.items():
        others[name].assign(array)


def _read(file, filepath):
    """Metadata of a file of adapters, and the arrays beside them."""
    if GROUP not in file:
        raise ValueError(
            f"{filepath} must be a file of save_lora_weights of a model of "
            "keras_moe, which holds all that was trained; it holds adapters "
            "alone. keras_hub.models.Backbone.load_lora_weights(backbone, "
            "path) reads them unchecked."
        )
    arrays = {}

    def collect(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        array = item[()]
        if not np.isfinite(array).all():
            raise ValueError(
                f"{filepath} must hold finite numbers; {name} does not."
            )
        if name.startswith(f"{TRAINED}/"):
            arrays[name.removeprefix(f"{TRAINED}/")] = array

    file.visititems(collect)
    return dict(file[GROUP].attrs), arrays


def _kind(model, backbone):
    return "backbone" if model is backbone else "task"


def _adapted(backbone):
    """{index: layer} as KerasHub numbers the layers that have weights."""
    layers = [
        layer
        for layer in backbone._flatten_layers(include_self=False)
        if layer.weights
    ]
    return {index: layers[index] for index in backbone._lora_enabled_layers}


def _others(model):
    """{path: weight} of all weights that are no adapters."""
    return {
        weight.path: weight
        for weight in sorted(model.weights, key=lambda one: one.path)
        if not weight.name.startswith("lora_")
    }


def digests(weights):
    """Checksums of weights' names, shapes and dtypes, and of their numbers."""
    kinds, numbers = hashlib.sha256(), hashlib.sha256()
    for name, weight in weights.items():
        kinds.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        array = keras.ops.convert_to_numpy(weight)
        numbers.update(np.ascontiguousarray(array).tobytes())
    return kinds.hexdigest(), numbers.hexdigest()

"""Adapters (LoRA) of experts, which KerasHub's `enable_lora` does not reach."""

import os
import pathlib

import h5py
import keras

from keras_moe import checks
from keras_moe import files
from keras_moe.kerashub import banks
from keras_moe.kerashub import kernels
from keras_moe.kerashub import sparse
from keras_moe.models.checkpoints.lora_files import digests

GROUP = "keras_moe_expert_lora"
END = ".lora.h5"


def enable_expert_lora(
    model: keras.Layer, rank: int, alpha: float | None = None
) -> list[sparse.SparseBlock]:
    """Train low-rank adapters of experts, and freeze all else.

    Each expert's kernel W (D,F) gets two matrices of its own (LoRA, arXiv
    2106.09685):

        rows · W  becomes  rows · W + (alpha / rank) · (rows · A) · B

    A (D,r) is drawn as by `he_uniform`, B (r,F) is zero, so that outputs do
    not change at first. All weights of the model but adapters are frozen;
    adapters that KerasHub's `enable_lora` made stay trainable, if it was called
    before. Called afterwards, it freezes those of experts. Biases and further
    weights can be made trainable again one by one, by their attribute
    `trainable`. The model computes the chosen experts alone,
    as after `use_sparse_experts`, adapters too.

    Experts may be quantised (`quantize_experts`) before, not after.
    An optimizer that was used with the model before does not know adapters:
    compile again.

    `save_expert_lora` and `load_expert_lora` are for adapters alone,
    `merge_expert_lora` adds them to the kernels. Until then files of the whole
    model have them, which KerasHub refuses with a `ValueError`.

    Args:
        model: as of `use_sparse_experts`.
        rank: r.
        alpha: as in the equation, greater than 0; by default `rank`.

    Returns:
        A list of `SparseBlock`, the path and the family of each block whose
        experts got adapters.

    Raises:
        ValueError: as of `use_sparse_experts`; for an argument that does not
            fit, and if experts have adapters. Then nothing changes.

    Example:

    >>> import keras_hub, keras_moe
    >>> backbone = keras_hub.models.MixtralBackbone(
    ...     vocabulary_size=16, num_layers=1, num_query_heads=2, hidden_dim=8,
    ...     intermediate_dim=8, num_key_value_heads=1, num_experts=4)
    >>> len(keras_moe.enable_expert_lora(backbone, rank=2))
    1
    >>> len(backbone.trainable_weights)  # A and B of three kernels
    6
    >>> len(keras_moe.merge_expert_lora(backbone))
    1
    """
    rank = checks.integer("rank", rank)
    alpha = (
        rank if alpha is None else checks.real("alpha", alpha, exclusive=True)
    )
    layers = sparse.found(model)
    for family, layer in layers:
        if _adapted(family, layer):
            raise ValueError(
                "model must have experts without adapters; those of "
                f"{family.bank_of(layer).path!r} have some."
            )
    sparse.keep_sparse(model)
    model.trainable = True
    for weight in model.weights:
        if not _is_adapter(weight):
            weight.trainable = False
    for family, layer in layers:
        banks.replace(
            family,
            layer,
            lambda bank, kernel: kernels.AdaptedKernel(
                bank, kernel, rank, alpha
            ),
        )
    return _report(model, layers)


def merge_expert_lora(model: keras.Layer) -> list[sparse.SparseBlock]:
    """Add adapters to the experts' kernels, and remove them.

        W + (alpha / rank) · A · B

    Outputs stay what they were, up to rounding; kernels that are quantised are
    quantised anew, which rounds more. The kernels stay frozen:
    `model.trainable = True` makes every weight trainable that was. Compile
    again before further training.

    Args:
        model: as of `use_sparse_experts`.

    Returns:
        A list of `SparseBlock`, the path and the family of each block whose
        experts had adapters.

    Raises:
        ValueError: for a model whose experts have no adapters.
    """
    layers = _with_adapters(model)
    for family, layer in layers:
        banks.replace(family, layer, lambda bank, kernel: kernel.merge(bank))
        banks.restore(family, layer)
    return _report(model, layers)


def save_expert_lora(model: keras.Layer, filepath: str) -> None:
    """Write the experts' adapters, and all else that is trained.

    Args:
        model: with adapters, see `enable_expert_lora`.
        filepath: ends in `.lora.h5`. The file is written whole or not at all.
            It has the checksum of the weights that were frozen.

    Raises:
        ValueError: for a model whose experts have no adapters, or another
            ending.
    """
    kernel = _kernel_with_adapters(model)
    is_path = isinstance(filepath, (str, os.PathLike))
    if not is_path or not str(filepath).endswith(END):
        raise ValueError(
            f"filepath must be a path that ends in {END!r}; "
            f"{checks.received(filepath)}."
        )
    path = pathlib.Path(filepath)
    part = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(part, "w") as file:
            group = file.create_group(GROUP)
            about = group.attrs
            about["rank"], about["alpha"] = kernel.rank, kernel.alpha
            trained = {id(weight) for weight in model.trainable_weights}
            frozen = {}
            for name, weight in _named(model).items():
                if id(weight) not in trained:
                    frozen[name] = weight
                    continue
                array = keras.ops.convert_to_numpy(weight)
                # HDF5 has no bfloat16, which float32 holds.
                narrow = weight.dtype in ("bfloat16", "float16")
                group[name] = array.astype("float32") if narrow else array
            about["kinds"], about["base"] = digests(frozen)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_expert_lora(model: keras.Layer, filepath: str) -> None:
    """Read what `save_expert_lora` wrote, after all of it was found to fit.

    Args:
        model: the one that was trained, or another one with the weights that
            were frozen then. Without adapters, it gets those of the file.
        filepath: path of the file.

    Raises:
        ValueError: for a file that is damaged, or of another model, or of
            adapters that were trained beside other weights.
    """
    with files.decoding(filepath, "whole file of save_expert_lora"):
        about, arrays = _read(filepath)
        rank, alpha = int(about["rank"]), float(about["alpha"])
        of_frozen = about["kinds"], about["base"]
    named = _named(model)
    kinds, base = digests({n: w for n, w in named.items() if n not in arrays})
    # In another dtype, or quantised, the numbers of one model differ.
    if kinds == of_frozen[0] and base != of_frozen[1]:
        raise ValueError(
            f"{filepath} must be loaded into the model that its adapters were "
            "trained on; the weights that were frozen then are other ones here."
        )
    adapted = _layers_with_adapters(model)
    if adapted and alpha != (own := _kernel_with_adapters(model).alpha):
        raise ValueError(
            f"{filepath} must have adapters of the model's alpha, {own}; its "
            f"alpha is {alpha}."
        )
    own = {
        name: tuple(weight.shape)
        for name, weight in named.items()
        if name in arrays or _is_adapter(weight)
    }
    if not adapted:
        own |= _shapes_of_adapters(model, rank)
    read = {name: array.shape for name, array in arrays.items()}
    for name in sorted(own.keys() | read.keys()):
        if own.get(name) != read.get(name):
            raise ValueError(
                f"{filepath} must have what was trained of this model; "
                f"{name} has the shape {read.get(name)} in the file and "
                f"{own.get(name)} in the model."
            )
    if not adapted:
        enable_expert_lora(model, rank, alpha)
    named = _named(model)
    for name, array in arrays.items():
        named[name].assign(array)


def _read(filepath):
    """Metadata of a file of adapters, and {path: array} of its adapters."""
    with h5py.File(filepath) as file:
        arrays = {}

        def collect(name, item):
            if isinstance(item, h5py.Dataset):
                arrays[name] = item[()]

        file[GROUP].visititems(collect)
        return dict(file[GROUP].attrs), arrays


def _named(model):
    """{name: weight}, by names that do not depend on other models' layers."""
    experts = {}
    for index, (family, layer) in enumerate(sparse.found(model)):
        for kernel in _adapted(family, layer):
            name = f"experts/{index}/{kernel.name}"
            experts |= {f"{name}/a": kernel.a, f"{name}/b": kernel.b}
    adapters = {id(weight) for weight in experts.values()}
    others = [w for w in model.weights if id(w) not in adapters]
    # KerasHub numbers some of its layers through all models of a process.
    return experts | {
        f"others/{index}/{weight.name}": weight
        for index, weight in enumerate(others)
    }


def _shapes_of_adapters(model, rank):
    """{name: shape}, by the names of `_named`, of a model without adapters."""
    shapes = {}
    for index, (family, layer) in enumerate(sparse.found(model)):
        _, found = banks.kernels_of(family, layer)
        for kernel in found.values():
            experts, features, hidden = kernel.shape
            name = f"experts/{index}/{kernel.name}"
            shapes[f"{name}/a"] = (experts, features, rank)
            shapes[f"{name}/b"] = (experts, rank, hidden)
    return shapes


def _is_adapter(weight):
    return weight.name.startswith("lora_")


def _adapted(family, layer):
    """The kernels of a layer that have adapters."""
    _, found = banks.kernels_of(family, layer)
    return [
        kernel
        for kernel in found.values()
        if isinstance(kernel, kernels.AdaptedKernel)
    ]


def _layers_with_adapters(model):
    """Pairs of a family and a layer with adapters."""
    return [pair for pair in sparse.found(model) if _adapted(*pair)]


def _with_adapters(model):
    """Pairs of a family and a layer with adapters, at least one."""
    adapted = _layers_with_adapters(model)
    if not adapted:
        raise ValueError(
            "model must have experts with adapters, by enable_expert_lora; "
            f"received {model.name!r} without any."
        )
    return adapted


def _kernel_with_adapters(model):
    return _adapted(*_with_adapters(model)[0])[0]


def _report(model, layers):
    banks.hold_present_weights(model)
    return sparse.report(model, [(f, f.block_of(x)) for f, x in layers])

"""Experts in 8 or 4 bits: KerasHub's `quantize` leaves their banks in float."""

import contextlib
import functools
import importlib

import keras

from keras_moe import checks
from keras_moe.kerashub import banks
from keras_moe.kerashub import kernels
from keras_moe.kerashub import sparse
from keras_moe.kerashub.family import MODELS

MODES = ("int8", "int4")
# With a scale in float32 for fewer inputs, 4 bits take more than 8 do.
LEAST_GROUP = 8


def quantize_experts(
    model: keras.Layer, mode: str, group_size: int = 64
) -> list[sparse.SparseBlock]:
    """Store the experts of KerasHub's mixtures of experts in 8 or 4 bits.

    Each kernel (D,F) of each expert becomes integers and scales:

        kernel[d,f] ≈ integer[d,f] · scale[g,f]

    For `"int8"` an output feature has one scale; for `"int4"` it has one for
    each group g of inputs. Two integers of 4 bits share a byte. The float
    kernels are freed, bank after bank. The model computes the chosen experts
    alone, as after `use_sparse_experts`, which this function calls where it
    was not; products make kernels in the compute dtype of the chosen experts
    only, one or a few at a time. Integers and scales are not trained, all
    other weights can be.

    Everything outside the experts' banks stays as it is: KerasHub's
    `model.quantize("int8")` stores the other layers in 8 bits, before or after.
    An optimizer that was used before knows the float kernels: compile again.

    **Files are keras_moe's own.** What such a model saves holds integers and
    scales, which KerasHub refuses with a `ValueError` about the number of
    variables. Load it, or a float file that should never be whole in memory,
    within `quantize_while_loading`; or quantise a model first and call its
    `load_weights`, with a file of the same `mode` and `group_size` or one of
    KerasHub's.

    Args:
        model: as of `use_sparse_experts`.
        mode: `"int8"` or `"int4"`.
        group_size: for `"int4"`, the most inputs that share a scale, such as
            64 or 128; groups are the largest that divide the number of inputs.

    Returns:
        A list of `SparseBlock`, the path and the family of each block whose
        bank changed; empty if all were of this mode already.

    Raises:
        ValueError: as of `use_sparse_experts`; for another mode, for experts
            that have another one already or adapters; and for `"int4"` if a
            kernel has an odd number of outputs, or a number of inputs whose
            divisors up to `group_size` are all below 8. Then nothing changes.

    Example:

    >>> import keras_hub, keras_moe
    >>> backbone = keras_hub.models.MixtralBackbone(
    ...     vocabulary_size=16, num_layers=1, num_query_heads=2, hidden_dim=8,
    ...     intermediate_dim=8, num_key_value_heads=1, num_experts=4)
    >>> len(keras_moe.quantize_experts(backbone, "int4"))
    1
    >>> keras_moe.quantize_experts(backbone, "int4")
    []
    """
    checks.choice("mode", mode, MODES)
    group_size = checks.integer("group_size", group_size)
    changes = [
        (family, layer)
        for family, layer in sparse.found(model)
        if _is_to_change(family, layer, mode, group_size)
    ]
    # First, as it checks that KerasHub's code is known.
    sparse.keep_sparse(model)
    for family, layer in changes:
        _quantize(family, layer, mode, group_size)
    banks.hold_present_weights(model)
    return sparse.report(model, [(f, f.block_of(x)) for f, x in changes])


def _is_to_change(family, layer, mode, group_size):
    bank, found = banks.kernels_of(family, layer)
    is_to_change = False
    for kernel in found.values():
        if isinstance(kernel, kernels.AdaptedKernel):
            raise ValueError(
                f"experts must be quantised before they get adapters; those of "
                f"{bank.path!r} have some. Call merge_expert_lora first, or "
                "load the model anew."
            )
        if isinstance(kernel, kernels.QuantizedKernel):
            own = kernel.mode, kernel.group_size
            if own == (mode, group_size) or own[0] == mode == "int8":
                continue
            raise ValueError(
                f"mode={mode!r}, group_size={group_size} must be that of "
                f"experts that are quantised already; those of {bank.path!r} "
                f"are of mode={own[0]!r}, group_size={own[1]}. Load the model "
                "anew."
            )
        if mode == "int4" and kernel.shape[2] % 2:
            raise ValueError(
                "mode must be 'int8' for kernels with an odd number of "
                f"outputs, such as {kernel.path!r} of {kernel.shape[2]}; "
                "received 'int4', which packs two."
            )
        if mode == "int4":
            _check_groups(kernel, group_size)
        is_to_change = True
    return is_to_change


def _check_groups(kernel, group_size):
    """Refuse groups so small that int8 would take less memory."""
    features = kernel.shape[1]
    group = kernels.group_of(features, group_size)
    if group < LEAST_GROUP <= min(group_size, features):
        sizes = range(group_size, features + 1)
        larger = next(size for size in sizes if features % size == 0)
        raise ValueError(
            f"group_size must reach a divisor of {features}, the inputs of "
            f"{kernel.path!r}, of {LEAST_GROUP} or more, such as {larger}; "
            f"received {group_size}, and groups would have {group} inputs."
        )


def _quantize(family, layer, mode, group_size):
    banks.replace(
        family,
        layer,
        lambda bank, kernel: (
            kernel
            if isinstance(kernel, kernels.QuantizedKernel)
            else kernels.QuantizedKernel(bank, kernel, mode, group_size)
        ),
    )


@contextlib.contextmanager
def quantize_while_loading(mode: str, group_size: int = 64):
    """Quantise each bank of experts as soon as it is built.

    Models that are made within, by `from_preset`, `load_model` or by hand, are
    as after `quantize_experts`. The float kernels of one block at a time are
    in memory. Weights are quantised while they are read, those of a float file
    of KerasHub and those that its converters bring; a file that a quantised
    model saved is read as it is.

    KerasHub's classes are changed within, for all threads.

    Args:
        mode: as of `quantize_experts`.
        group_size: as of `quantize_experts`.

    Raises:
        ValueError: as `quantize_experts` does, where a model is built.

    Example:

    >>> import keras_hub, keras_moe
    >>> with keras_moe.quantize_while_loading("int8"):
    ...     backbone = keras_hub.models.MixtralBackbone(
    ...         vocabulary_size=16, num_layers=1, num_query_heads=2,
    ...         hidden_dim=8, intermediate_dim=8, num_key_value_heads=1,
    ...         num_experts=4)
    >>> keras_moe.quantize_experts(backbone, "int8")
    []
    """
    checks.choice("mode", mode, MODES)
    group_size = checks.integer("group_size", group_size)
    with contextlib.ExitStack() as stack:
        for family in sparse.FAMILIES:
            module = importlib.import_module(MODELS + family.module)
            made = getattr(module, family.layer)
            build = vars(made)["build"]
            made.build = _then_quantize(build, family, mode, group_size)
            stack.callback(setattr, made, "build", build)
        yield


def _then_quantize(build, family, mode, group_size):
    @functools.wraps(build)
    def build_and_quantize(self, *args, **kwargs):
        build(self, *args, **kwargs)
        if family.covers(self):
            quantize_experts(self, mode, group_size)

    return build_and_quantize

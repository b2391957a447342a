"""Calls whose activations the backward pass computes again.

A layer's call becomes one function of arrays without side effects,

    values of all variables, inputs -> outputs, losses, moved variables,

which the backend's module runs twice: in the forward pass, which keeps its
inputs alone, and for the gradients. Both runs have the same values, those of
random seeds too, and so the same noise, dropout and routing plan. Losses are
added and variables moved once, after the first run.
"""

import importlib

import keras
import numpy as np
from keras import ops

from keras_moe import diagnostics

# What a layer may return besides tensors; the first run's is returned.
PLAIN = (type(None), bool, int, float, complex, str, np.ndarray, np.generic)
_TENSOR = object()  # stands for a tensor in the structure of a layer's outputs

backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def call(layer, function, *args, **kwargs):
    """Return `function(*args, **kwargs)`, which gradients compute again.

    An open block of `diagnostics.capture` needs the plan's values, which a
    function that is differentiated as a whole hides: within one, the function
    is called as it is.

    Args:
        layer: that calls, outside of an autocast scope. It holds each variable
            that the function assigns, and receives the losses.
        function: calls layers of `layer`. It passes `training` to them, since
            Keras' record of the outer call is gone in the second run.
        *args: tensors, in any structure, and other values.
        **kwargs: the same.

    Raises:
        ValueError: where the function makes variables, assigns others than
            the layer's, or returns objects that may hide tensors.
    """
    if diagnostics.open_blocks:
        return function(*args, **kwargs)
    variables = layer.variables
    leaves = keras.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if ops.is_tensor(leaf)]
    tensors = [leaves[place] for place in places]
    structure = None

    def compute(values, tensors):
        nonlocal structure
        inputs = list(leaves)
        for place, tensor in zip(places, tensors):
            inputs[place] = tensor
        args_now, kwargs_now = keras.tree.pack_sequence_as(
            (args, kwargs), inputs
        )
        scope = keras.StatelessScope(
            collect_losses=True, initialize_variables=False
        )
        with scope:
            if scope.original_scope is not None:
                scope.state_mapping.update(scope.original_scope.state_mapping)
            before = dict(scope.state_mapping)
            for variable, value in zip(variables, values):
                scope.add_update((variable, value))
            outputs = function(*args_now, **kwargs_now)
        _check_variables(layer, variables, before, scope)
        # Python may give the number of an array that is gone to another one,
        # which would then count as this layer's loss.
        numbers = {id(loss) for loss in scope.losses}
        for inner in layer._flatten_layers():
            inner._loss_ids -= numbers
        current = [scope.get_current_value(v) for v in variables]
        moved = {
            index: new
            for index, (new, old) in enumerate(zip(current, values))
            if new is not old
        }
        results = keras.tree.flatten(outputs)
        # Without the tensors, which this function would keep for the second
        # run.
        structure = keras.tree.pack_sequence_as(
            outputs, [_known(layer, leaf) for leaf in results]
        )
        arrays = [leaf for leaf in results if ops.is_tensor(leaf)]
        return arrays, list(scope.losses), moved

    values = [variable.value for variable in variables]
    arrays, losses, moved = backend.checkpoint(compute, values, tensors)
    for loss in losses:
        layer.add_loss(loss)
    for index, value in moved.items():
        variables[index].assign(value)
    arrays = iter(arrays)
    results = [
        next(arrays) if leaf is _TENSOR else leaf
        for leaf in keras.tree.flatten(structure)
    ]
    return keras.tree.pack_sequence_as(structure, results)


def _known(layer, leaf):
    """An output of the first run without its tensor; an error for others."""
    if ops.is_tensor(leaf):
        return _TENSOR
    if not isinstance(leaf, PLAIN):
        raise ValueError(
            "a layer that is recomputed must return tensors, plain values of "
            "Python, arrays of numpy, or structures of these; received "
            f"{layer.name!r}, whose call returned {type(leaf)}."
        )
    return leaf


def _check_variables(layer, variables, before, scope):
    """Refuse what a run leaves behind that no other run would see."""
    if len(layer.variables) != len(variables):
        raise ValueError(
            "a layer must be built, with all layers in it, before it is "
            f"recomputed; received {layer.name!r}, whose call made variables."
        )
    own = {id(variable) for variable in variables}
    others = [
        key
        for key, value in scope.state_mapping.items()
        if key not in own and value is not before.get(key)
    ]
    if others:
        raise ValueError(
            "a layer that is recomputed must hold every variable that its "
            f"call assigns; received {layer.name!r}, whose call assigned "
            f"{len(others)} of others, such as Keras' global random seed."
        )

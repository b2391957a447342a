"""Weights of several processes of JAX, collected for files.

A process can read its own devices alone, so a weight that is spread over the
devices of several processes can be written by none of them.
"""

import contextlib

import jax
import keras
from jax.experimental import multihost_utils

from keras_moe import checks
from keras_moe.processes import optimizer_of


def in_parts(value) -> bool:
    """Whether this process holds a part of an array alone."""
    return not (value.is_fully_addressable or value.is_fully_replicated)


def rows_here(value) -> int:
    """Count the entries of the first axis on the devices of this process."""
    number = value.shape[0]
    parts = {s.index[0].indices(number) for s in value.addressable_shards}
    return sum(len(range(*part)) for part in parts)


@contextlib.contextmanager
def whole(model):
    """Hold every weight in every process inside the block.

    One weight at a time is whole on the devices; then it lies in the memory of
    the host. No distribution is active: as Keras walks through a model to save
    it, it makes variables, and those of a distribution wait for all processes.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"model must be a Keras model or layer; {checks.received(model)}."
        )
    host = jax.local_devices(backend="cpu")[0]
    collected = []
    active = keras.distribution.distribution()
    try:
        for variable in _variables(model):
            value = variable.value
            if in_parts(value):
                joined = multihost_utils.process_allgather(value, tiled=True)
                joined = jax.device_put(joined, host)
                collected.append((variable, value, joined))
                variable._value = joined
        keras.distribution.set_distribution(None)
        yield model
    finally:
        keras.distribution.set_distribution(active)
        for variable, value, joined in collected:
            if variable._value is joined:  # else a file was loaded
                variable._value = value


def _variables(model):
    """Those of a model and of its optimizer, which are in files too."""
    variables = list(model.variables)
    optimizer = optimizer_of(model)
    if optimizer is not None:
        variables += optimizer.variables
    return variables

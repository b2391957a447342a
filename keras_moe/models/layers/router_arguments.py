"""Arguments that all backbones with routers have: checked alike."""

import inspect

import numpy as np

from keras_moe import checks
from keras_moe.models.layers.routers import ROUTERS

# What a block gives to its layer, and what a config could not hold.
GIVEN = ("name", "dtype", "expert", "output_dim", "slot_shape")


def sequence(name, value, expected) -> tuple:
    """`value` as a tuple; an error with what is expected if it is none."""
    if isinstance(value, (str, dict)) or not np.iterable(value):
        raise ValueError(f"{name} must be {expected}; received {value!r}.")
    return tuple(value)


def block_indices(layers, num_layers, name="moe_layers") -> tuple[int, ...]:
    """The argument `name` as a tuple of different indices of blocks."""
    expected = f"different indices below num_layers, {num_layers}"
    indices = tuple(
        checks.integer(name, index, minimum=0)
        for index in sequence(name, layers, expected)
    )
    different = len(set(indices)) == len(indices)
    if not different or any(i >= num_layers for i in indices):
        raise ValueError(f"{name} must be {expected}; received {layers!r}.")
    return indices


def no_moe_layers(layers) -> ValueError:
    """The error for `moe_layers` of a dense model."""
    return ValueError(
        "moe_layers must be left out where router=None, the dense model; "
        f"received {layers!r}."
    )


def check_known(router, cls, options, more=()) -> None:
    """Raise an error unless `options` are arguments of a router's layer.

    Args:
        router: its name.
        cls: the layer.
        options: what was given.
        more: names of options beside the layer's arguments.
    """
    parameters = inspect.signature(cls).parameters
    known = [name for name in (*parameters, *more) if name not in GIVEN]
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
    ]
    if not set(needed) <= set(options) <= set(known):
        raise ValueError(
            f"router_options must be arguments of {router!r}, "
            f"{cls.__name__}: {', '.join(needed)}, and if wanted "
            f"{', '.join(n for n in known if n not in needed)}; received "
            f"{options!r}."
        )


def options_of(router, options) -> dict:
    """`router_options` as a dictionary, empty for a dense model."""
    if options is not None and not isinstance(options, dict):
        raise ValueError(
            "router_options must be a dictionary or None; received "
            f"{options!r}."
        )
    if router is None and options:
        raise ValueError(
            "router_options must be left out where router=None, the dense "
            f"model; received {options!r}."
        )
    options = options or {}
    return {name: checks.plain(value) for name, value in options.items()}


def last_half(router, layers, num_layers, routers) -> tuple[int, ...]:
    """Indices of the blocks with experts; by default the last half.

    Args:
        router: its name, or `None`.
        layers: the argument `moe_layers`.
        num_layers: number of blocks.
        routers: names of those that the model has.
    """
    if router is not None:
        checks.choice("router", router, routers)
    elif layers:
        raise no_moe_layers(layers)
    else:
        return ()
    if layers is None:
        return tuple(range(num_layers - num_layers // 2, num_layers))
    return block_indices(layers, num_layers)


def of_blocks(router, options) -> dict:
    """`router_options` of `TransformerBlock`, checked."""
    options = options_of(router, options)
    if router is not None:
        more = ("group_size",) if router == "soft" else ()
        check_known(router, ROUTERS[router], options, more)
    if router == "soft":
        checks.optional_integer("group_size", options.get("group_size"))
    return options

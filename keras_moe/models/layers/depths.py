"""Blocks that a share of the tokens passes, in any backbone."""

import inspect

from keras_moe import checks
from keras_moe import routing
from keras_moe.layers import MixtureOfDepths
from keras_moe.models.layers import router_arguments

# What a backbone gives to the layer, and what no backbone needs.
GIVEN = ("layer", "residual", "name", "dtype", "trainable")


def checked(layers, options, num_layers) -> tuple[tuple[int, ...], dict]:
    """`depth_layers` and `depth_options` in the form that the config keeps.

    Args:
        layers: indices of blocks.
        options: `None`, or arguments of `MixtureOfDepths`.
        num_layers: number of blocks.
    """
    layers = router_arguments.block_indices(layers, num_layers, "depth_layers")
    if options is not None and not isinstance(options, dict):
        raise ValueError(
            f"depth_options must be a dictionary or None; received {options!r}."
        )
    if options and not layers:
        raise ValueError(
            "depth_options must be left out where depth_layers names no "
            f"block; received {options!r}."
        )
    parameters = inspect.signature(MixtureOfDepths).parameters
    known = [name for name in parameters if name not in GIVEN]
    if options and not set(options) <= set(known):
        raise ValueError(
            "depth_options must be arguments of MixtureOfDepths, "
            f"{', '.join(known)}; received {options!r}."
        )
    options = options or {}
    return layers, {name: checks.plain(v) for name, v in options.items()}


def around(blocks, layers, options, input_shape, dtype) -> dict:
    """The blocks of `depth_layers` by index, each behind a router of tokens."""
    return {
        index: wrapped(blocks[index], index, options, input_shape, dtype)
        for index in layers
    }


def wrapped(block, index, options, input_shape, dtype) -> MixtureOfDepths:
    """The block `index` behind a router of tokens; both are built.

    The block is built by itself, so that its weights have the paths that they
    have without the router.

    Args:
        block: that is not built yet.
        index: of the block.
        options: arguments of `MixtureOfDepths`.
        input_shape: of the tokens, (batch, tokens, features).
        dtype: of the router's layer.
    """
    depths = MixtureOfDepths(
        block, **options, name=f"depths_{index}", dtype=dtype
    )
    batch, tokens, features = input_shape
    if tokens is not None:
        tokens = routing.expert_capacity(
            tokens, 1, depths.capacity, rounding="round"
        )
    block.build((batch, tokens, features))
    depths.build(input_shape)
    return depths

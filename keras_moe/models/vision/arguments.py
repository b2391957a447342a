"""Arguments of `MoEViTBackbone`: checked, and brought into one form."""

import numbers
import pathlib

from keras_moe import checks
from keras_moe import files
from keras_moe.models.layers.router_arguments import sequence


def patch(patch_size):
    expected = "an integer or (height, width)"
    if isinstance(patch_size, numbers.Integral):
        patch_size = (patch_size, patch_size)
    pair = sequence("patch_size", patch_size, expected)
    if len(pair) != 2:
        raise ValueError(
            f"patch_size must be {expected}; received {patch_size!r}."
        )
    return tuple(checks.integer("patch_size", side) for side in pair)


def stem(stem_dims, patch):
    """Channels of the stem's convolutions, and the patch of what they give."""
    dims = sequence("stem_dims", stem_dims, "a sequence of integers")
    dims = tuple(checks.integer("stem_dims", one) for one in dims)
    halves = 2 ** len(dims)
    if any(side % halves for side in patch):
        raise ValueError(
            "stem_dims must be so few that 2 to the power of their number "
            f"divides patch_size, {patch}; received {dims}."
        )
    return dims, tuple(side // halves for side in patch)


def grid(image_shape, patch, data_format):
    """(rows, columns) of patches, and the image's shape as a tuple."""
    axes = (
        "(height, width, channels)"
        if data_format == "channels_last"
        else "(channels, height, width)"
    )
    shape = sequence("image_shape", image_shape, f"three integers, {axes}")
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"image_shape must be three integers, {axes}; received "
            f"{image_shape!r}."
        )
    shape = tuple(checks.integer("image_shape", side) for side in shape)
    sides = shape[:2] if data_format == "channels_last" else shape[1:]
    if sides[0] % patch[0] or sides[1] % patch[1]:
        raise ValueError(
            f"image_shape must be a multiple of patch_size, {patch}, in "
            f"height and width; received {shape}."
        )
    return (sides[0] // patch[0], sides[1] // patch[1]), shape


def check_channels(folder, arguments) -> None:
    """Raise an error if a preset's weights read images of other channels.

    Args:
        folder: of the preset.
        arguments: of `from_preset`.
    """
    path = pathlib.Path(folder) / "config.json"
    given = arguments.get("image_shape")
    if not isinstance(given, (list, tuple)) or not path.is_file():
        return
    saved = files.read_json(path, finite=False).get("config", {})
    shape = saved.get("image_shape")
    if shape is None or len(shape) != 3 or len(given) != 3:
        return
    axis, other = (
        0 if form == "channels_first" else -1
        for form in (
            saved.get("data_format"),
            arguments.get("data_format", saved.get("data_format")),
        )
    )
    if given[other] != shape[axis]:
        raise ValueError(
            f"image_shape must have {shape[axis]} channels, as the weights of "
            f"the preset have; received {tuple(given)}."
        )

"""Arguments of `keras_moe.upcycle`: checked, and completed."""

from keras_moe import checks
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.layers import router_arguments
from keras_moe.models.layers import routers
from keras_moe.models.vision import arguments as vit_arguments
from keras_moe.upcycling import weights

LAYERS = ("second_half", "all")
# Where a softmax over experts gives the weights, whoever chooses.
HARD = ("expert_choice", "token_choice")


def layers_of(layers, num_layers):
    """Indices of the blocks of a dense model that get experts."""
    if layers in (None, "second_half"):
        return tuple(range(num_layers - num_layers // 2, num_layers))
    if layers == "all":
        return tuple(range(num_layers))
    if isinstance(layers, str):
        raise ValueError(
            f"layers must be one of {', '.join(map(repr, LAYERS))}, or indices "
            f"of blocks; received {layers!r}."
        )
    return router_arguments.block_indices(layers, num_layers, "layers")


def check_conversion(source, router, num_experts, layers, noise, calibration):
    """Raise an error if a router cannot be turned into another one."""
    old = source.arguments["router"]
    checks.choice("router", router, HARD)
    for name, value in (
        ("num_experts", num_experts),
        ("layers", layers),
        ("calibration", calibration),
    ):
        if value is not None:
            raise ValueError(
                f"{name} must be left out where the model has experts already; "
                f"{checks.received(value)}."
            )
    if noise > 0:
        raise ValueError(
            "expert_noise must be 0 where the model has experts already; "
            f"received {noise}."
        )
    if old == router or old == "batch_expert_choice":
        raise ValueError(
            "model must have another router than the one wanted, and not "
            f"'batch_expert_choice'; received one with router={old!r}."
        )
    if source.arguments["router_options"].get("router_bias"):
        raise ValueError(
            "model must have a router without bias; received one with "
            "router_bias=True."
        )


def router_options(source, router, num_experts, given):
    """Arguments of the new router's layer."""
    arguments = source.arguments
    known = routers.VISION
    if source.cls is MoTBackbone:
        known = [r for r in routers.LANGUAGE if r != "batch_expert_choice"]
    checks.choice("router", router, known)
    given = router_arguments.options_of(router, given)
    fixed = ("num_experts", "expert", *weights.EXPERT_OPTIONS)
    refused = sorted(set(given) & set(fixed))
    if refused:
        raise ValueError(
            "router_options must not say what the experts are, which the model "
            f"says; received {', '.join(refused)}."
        )
    old = arguments.get("router_options") or {}
    experts = num_experts or old["num_experts"]
    options = {k: old[k] for k in weights.EXPERT_OPTIONS if k in old}
    options["num_experts"] = experts
    if router == "soft":
        if given.get("capacity_factor") is None:
            options["slots_per_expert"] = max(
                1, round(_tokens(arguments) / experts)
            )
    elif router == "token_choice":
        options["top_k"] = min(2, experts)
    elif router == "expert_choice":
        options["capacity_factor"] = float(min(2, experts))
    else:
        options["group_size"] = experts
    return {**options, **given}


def _tokens(arguments):
    """Count the tokens of an image."""
    patch = vit_arguments.patch(arguments["patch_size"])
    (rows, columns), _ = vit_arguments.grid(
        arguments["image_shape"], patch, arguments["data_format"]
    )
    return rows * columns + int(arguments["class_token"])


def check_calibration(router, options, images, source, layers):
    """Raise an error if these images cannot tell where slots should be."""
    both = sorted(set(layers) & set(source.arguments.get("depth_layers", ())))
    if both:
        raise ValueError(
            "calibration must be left out where layers has blocks of "
            f"depth_layers, which some tokens skip; received images for {both}."
        )
    if router != "soft" or not options.get("normalize", True):
        raise ValueError(
            "calibration must be left out unless router='soft' with "
            f"normalize=True; received images for router={router!r}."
        )
    expected = tuple(source.arguments["image_shape"])
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1:] != expected:
        raise ValueError(
            f"calibration must be images of shape {(None, *expected)}; "
            f"received shape {shape}."
        )

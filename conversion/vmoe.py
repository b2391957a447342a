"""vmoe's vision transformers: what a checkpoint says, and what it does not."""

import dataclasses
import math
import re

from conversion import vmoe_router
from conversion.errors import ConversionError
from conversion.options import VmoeOptions as Options
from conversion.vmoe_router import rank_of
from keras_moe.models.vision import architectures

__all__ = [
    "Options",
    "Plan",
    "blocks_of",
    "deduce",
    "image_model",
    "need_image_model",
    "parameters",
    "pooling",
    "width_of",
]

BLOCK = re.compile(r"Encoder/encoderblock_(\d+)/")


@dataclasses.dataclass
class Plan:
    """Arguments of the model, and lines that say where each comes from."""

    backbone: dict
    classifier: dict
    notes: list


def parameters(shapes):
    """{path inside the model: path in the checkpoint}, and what is left.

    Takes bare parameters and a training state, of which only `params` is
    used; the optimiser, random states and the step are named as left.
    """
    paths = set(shapes)
    state = {p for p in paths if p.startswith("params/")}
    if state:
        return {p.removeprefix("params/"): p for p in state}, paths - state
    return {p: p for p in paths}, set()


def deduce(shapes, options):
    """Arguments of backbone and classifier, from shapes and options.

    Args:
        shapes: {path inside the model: shape}.
        options: an `Options`.

    Raises:
        ConversionError: for a checkpoint of another model, an option that
            cannot be or contradicts it, or one that is needed and missing.
    """
    options.check()
    if options.text_pooling is not None:
        raise ConversionError(
            "--text-pooling is of models of two towers; this checkpoint has "
            "one."
        )
    need_image_model(shapes)
    if "head/kernel" not in shapes:
        raise ConversionError(
            "the checkpoint has no head/kernel; only classifiers and models "
            "of two towers are converted."
        )
    backbone, notes = image_model(shapes, options)
    classifier = {
        "num_classes": rank_of(shapes, "head/kernel", 2)[-1],
        "pooling": pooling(shapes, options),
        "head_kernel_initializer": "zeros",
    }
    if "pre_logits/kernel" in shapes:
        kernel = rank_of(shapes, "pre_logits/kernel", 2)
        classifier["representation_size"] = kernel[-1]
    return Plan(backbone, classifier, notes)


def image_model(shapes, options):
    """Arguments of a vision transformer, and notes on them."""
    notes = []
    named = _named(options.architecture)
    *patch, channels, features = rank_of(shapes, "embedding/kernel", 4)
    blocks = blocks_of(shapes)
    block = "Encoder/encoderblock_{}/".format
    moe_layers = tuple(
        i
        for i in blocks
        if any(p.startswith(block(i) + "Moe/") for p in shapes)
    )
    heads = rank_of(shapes, block(0) + "SelfAttention/query/kernel", 3)[1]
    _agree("--num-heads", options.num_heads, heads)
    mlp_dim, expert_dim = width_of(shapes)
    class_token = "cls" in shapes
    backbone = {
        "patch_size": tuple(patch),
        "num_layers": len(blocks),
        "num_heads": heads,
        "hidden_dim": features,
        "mlp_dim": mlp_dim,
        "qk_norm": block(0) + "SelfAttention/query_ln/scale" in shapes,
        "class_token": class_token,
        "positions": _positions(shapes, options, notes),
        "activation": "gelu_tanh",
    }
    sides = _image_size(shapes, options, patch, class_token, named, notes)
    backbone["image_shape"] = (*sides, channels)
    if moe_layers:
        router, router_options = vmoe_router.router(
            shapes, block(moe_layers[0]) + "Moe/", options, named, notes
        )
        if expert_dim not in (None, mlp_dim):
            router_options["intermediate_dim"] = expert_dim
        tokens = math.prod(s // p for s, p in zip(sides, patch)) + class_token
        vmoe_router.group(options, router_options, tokens, notes)
        backbone.update(
            router=router, moe_layers=moe_layers, router_options=router_options
        )
    else:
        vmoe_router.refuse_options(options)
        if options.group_size is not None:
            raise ConversionError(
                "--group-size is of mixtures of experts; this model is dense."
            )
    return backbone, notes


def need_image_model(shapes):
    """Refuse a checkpoint of something else than a vision transformer."""
    for needed in ("embedding/kernel", "Encoder/encoder_norm/scale"):
        if needed not in shapes:
            raise ConversionError(
                f"the checkpoint has no {needed}, which every vision "
                "transformer of vmoe has; it holds "
                f"{', '.join(sorted(shapes)[:5])}…."
            )


def blocks_of(shapes):
    """Indices of the blocks: 0, 1, …"""
    blocks = sorted({int(m[1]) for p in shapes if (m := BLOCK.match(p))})
    if blocks != list(range(len(blocks))) or not blocks:
        raise ConversionError(
            f"the checkpoint must have the blocks 0, 1, …; it has {blocks}."
        )
    return blocks


def width_of(shapes):
    """Hidden features of the MLPs, and of the experts (`None` without)."""
    dense = {
        rank_of(shapes, p, 2)[-1]
        for p in shapes
        if p.endswith("/Mlp/Dense_0/kernel")
        and "/Moe/" not in p
        and "MapHead" not in p
    }
    expert = {
        rank_of(shapes, p, 3)[-1]
        for p in shapes
        if p.endswith("/Moe/Mlp/Dense_0/kernel")
    }
    if len(dense) > 1 or len(expert) > 1:
        raise ConversionError(
            "all MLPs, and all experts, must have the same hidden features; "
            f"the checkpoint has {sorted(dense)} and {sorted(expert)}."
        )
    if not dense | expert:
        raise ConversionError("the checkpoint has no Mlp/Dense_0/kernel.")
    expert_dim = expert.pop() if expert else None
    return (dense.pop() if dense else expert_dim), expert_dim


def _named(name):
    if name is None:
        return {}
    try:
        return architectures.get(name)
    except ValueError as error:
        raise ConversionError(f"--architecture: {error}") from error


def _agree(option, given, found):
    if given is not None and given != found:
        raise ConversionError(
            f"{option} {given} does not agree with the checkpoint, which has "
            f"{found}."
        )


def _positions(shapes, options, notes):
    if "Encoder/posembed_input/pos_embedding" in shapes:
        _agree("--positions", options.positions, "learned")
        return "learned"
    if options.positions == "learned":
        raise ConversionError(
            "--positions learned does not agree with the checkpoint, which "
            "has no Encoder/posembed_input/pos_embedding."
        )
    if options.positions is None:
        raise ConversionError(
            "the checkpoint has no learned positions and does not say which "
            "others it has: give --positions sincos2d or --positions none."
        )
    notes.append(f"positions: {options.positions}, as given")
    return options.positions


def _image_size(shapes, options, patch, class_token, named, notes):
    if options.image_size is not None:
        sides = tuple(options.image_size)
        if any(s % p for s, p in zip(sides, patch)):
            raise ConversionError(
                f"--image-size {sides[0]}x{sides[1]} must be a multiple of "
                f"the patch, {patch[0]}x{patch[1]}."
            )
        notes.append(f"image size: {sides[0]}x{sides[1]}, as given")
        return sides
    table = shapes.get("Encoder/posembed_input/pos_embedding")
    if table is not None:
        places = (
            rank_of(shapes, "Encoder/posembed_input/pos_embedding", 3)[1]
            - class_token
        )
        side = math.isqrt(places)
        if side * side == places:
            sides = (side * patch[0], side * patch[1])
            notes.append(
                f"image size: {sides[0]}x{sides[1]}, from {places} positions "
                "in a square"
            )
            return sides
        raise ConversionError(
            f"{places} learned positions are no square: give --image-size "
            "HxW, what the model was trained at."
        )
    if "image_shape" in named:
        return named["image_shape"][:2]
    raise ConversionError(
        "the checkpoint does not say the size of its images: give "
        "--image-size HxW."
    )


def pooling(shapes, options):
    """Pooling of the tokens of an image."""
    if "MapHead/probe" in shapes:
        found = "map"
    else:
        found = "token" if "cls" in shapes else "gap"
    _agree("--pooling", options.pooling, found)
    return found

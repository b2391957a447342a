"""llm-random's checkpoints: what shapes say, and what they do not."""

import dataclasses
import re

import numpy as np

from conversion import llm_random_names as names
from conversion.errors import ConversionError
from conversion.options import LlmRandomOptions as Options
from conversion.options import flag

__all__ = ["Options", "Plan", "deduce"]

BLOCK = re.compile(r"encoder\.blocks\.block_(\d+)\.")


@dataclasses.dataclass
class Plan:
    """Arguments of the model, where its weights lie, and lines to print."""

    backbone: dict
    sources: dict
    left_out: list
    notes: list


OF_MIXTURES = (
    "group_size",
    "sparsity_dim",
    "temperature",
    "learned_temperature",
    "emit_softmax_over",
)
OF_CHOICE = ("topk_fraction", "softmax_over", "group_by_batch")


def deduce(checkpoint, options):
    """The plan for a checkpoint.

    Args:
        checkpoint: with `shapes()` and `read(name)`.
        options: an `Options`.

    Raises:
        ConversionError: for a checkpoint of another model, an option that
            cannot be or contradicts it, or options that are needed and
            missing; these are all named at once.
    """
    options.check()
    shapes = checkpoint.shapes()
    vocabulary, features = _shape(shapes, names.TOKENS, 2)
    _shape(shapes, names.HEAD, 2)
    blocks = sorted({int(m[1]) for n in shapes if (m := BLOCK.match(n))})
    if not blocks or blocks != list(range(len(blocks))):
        raise ConversionError(
            f"the checkpoint must have the blocks 0, 1, …; it has {blocks}."
        )
    first = names.norm(0, "attention", "post", "")
    placement = "post" if any(n.startswith(first) for n in shapes) else "pre"
    ends = names.norm(0, "attention", placement, "g")
    backbone = {
        "vocabulary_size": vocabulary,
        "num_layers": len(blocks),
        "hidden_dim": features,
        "norm": "rms_norm" if ends in shapes else "layer_norm",
        "norm_placement": placement,
        "final_norm": False,
        "attention_bias": False,
        "tie_embeddings": False,
        "activation": "relu",
    }
    missing, left_out = [], []
    attention = names.part(0, "attention", placement)
    width = _shape(shapes, f"{attention}input_projection.weight", 2)[0] // 3
    backbone.update(_positions(checkpoint, shapes, placement, left_out))
    table = f"{attention}rope.cos"
    rotary = _shape(shapes, table, 2)[-1] if table in shapes else None
    backbone.update(_heads(options, width, features, rotary, missing))
    backbone.update(_feed_forward(shapes, blocks, placement))
    _refuse_foreign_options(options, backbone["router"])
    learned = None
    if backbone["router"] == "mixture_of_tokens":
        learned = _mixture(options, backbone, shapes, placement, missing)
    elif backbone["router"]:
        _choice(options, backbone, missing)
    if options.model_type is None:
        missing.append("--model-type gpt|bert (causal, or not)")
    if missing:
        listed = ", ".join(missing)
        raise ConversionError(
            f"the checkpoint does not say everything; give {listed}."
        )
    backbone["causal"] = options.model_type == "gpt"
    left_out += _temperatures_left_out(backbone, shapes, placement, learned)
    return Plan(
        backbone,
        names.sources(backbone, learned),
        left_out,
        [f"{name}: {value}" for name, value in backbone.items()],
    )


def _shape(shapes, name, rank):
    shape = shapes.get(name, "no such tensor")
    if name not in shapes or len(shape) != rank or 0 in shape:
        raise ConversionError(
            f"{name} must have {rank} axes, none of size 0; the checkpoint "
            f"has {shape}."
        )
    return shape


def _positions(checkpoint, shapes, placement, left_out):
    if names.POSITIONS in shapes:
        length = _shape(shapes, names.POSITIONS, 2)[0]
        return {"positions": "learned", "max_sequence_length": length}
    tables = [n for n in shapes if n.endswith((".rope.sin", ".rope.cos"))]
    if not tables:
        raise ConversionError(
            f"the checkpoint has neither {names.POSITIONS} nor rotary tables "
            "(rope.sin, rope.cos); models without positions are not offered."
        )
    for name in tables:
        length, width = _shape(shapes, name, 2)
        angles = np.arange(length)[:, None] * 10_000.0 ** (
            -np.arange(width // 2) / (width // 2)
        )
        wave = np.sin if name.endswith("sin") else np.cos
        expected = wave(np.concatenate([angles, angles], axis=1))
        if not np.allclose(checkpoint.read(name), expected, atol=1e-4):
            raise ConversionError(
                f"{name} does not hold rotary positions of base 10000."
            )
    left_out += tables
    return {"positions": "rotary", "max_sequence_length": length}


def _heads(options, width, features, rotary, missing):
    """Number of heads and, where it is not the usual one, their size."""
    count = options.num_heads
    if rotary:  # these tables have the size of a head
        found = width // rotary
        if count not in (None, found):
            raise ConversionError(
                f"--num-heads {count} does not agree with the checkpoint, "
                f"which has {found}."
            )
        count = found
    if count is None:
        missing.append("--num-heads N")
        return {}
    if width % count:
        raise ConversionError(
            f"--num-heads must divide {width}, the width of attention; it is "
            f"{count}."
        )
    size = width // count
    usual = size * count == features
    return {"num_heads": count, "head_dim": None if usual else size}


def _feed_forward(shapes, blocks, placement):
    """Kinds of the blocks' second parts."""
    kinds, dense, experts = {}, set(), set()
    for index in blocks:
        mlp = names.part(index, "feedforward", placement)
        if f"{mlp}controller" in shapes:
            kinds[index] = "mixture_of_tokens"
            experts.add(_shape(shapes, f"{mlp}lin1", 3)[::2])
        elif f"{mlp}gating.gate" in shapes:
            kinds[index] = "batch_expert_choice"
            name = f"{mlp}{names.EXPERTS}lin1_weight"
            experts.add(_shape(shapes, name, 3)[::2])
        else:
            name = f"{mlp}logging_ff_pre_relu.weight"
            dense.add(_shape(shapes, name, 2)[0])
    routers = sorted(set(kinds.values()))
    if len(routers) > 1 or len(dense) > 1 or len(experts) > 1:
        raise ConversionError(
            "all dense blocks, and all blocks with experts, must be alike; "
            f"the checkpoint has {routers}, hidden features {sorted(dense)} "
            f"and (experts, hidden features) {sorted(experts)}."
        )
    if not kinds:
        return {
            "router": None,
            "moe_layers": (),
            "router_options": {},
            "mlp_dim": dense.pop(),
        }
    count, size = experts.pop()
    options = {
        "num_experts": count,
        "intermediate_dim": size,
        "use_bias": False,
    }
    if routers == ["batch_expert_choice"]:
        mlp = names.part(min(kinds), "feedforward", placement)
        gated = f"{mlp}{names.EXPERTS}gate_weight" in shapes
        options["gated"] = gated
        options["activation"] = "silu" if gated else "relu"
        options["output_norm"] = f"{mlp}ln.l.weight" in shapes
    return {
        "router": routers[0],
        "moe_layers": tuple(kinds),
        "router_options": options,
        "mlp_dim": dense.pop() if dense else size,
    }


def _asked(options, **hints):
    """Names of the options that are missing, with a hint for each."""
    return [
        f"{flag(name)} {hint}"
        for name, hint in hints.items()
        if getattr(options, name) is None
    ]


def _refuse_foreign_options(options, router):
    foreign = {
        "mixture_of_tokens": OF_CHOICE,
        "batch_expert_choice": OF_MIXTURES,
        None: OF_CHOICE + OF_MIXTURES,
    }[router]
    for name in foreign:
        if getattr(options, name) is not None:
            raise ConversionError(
                f"{flag(name)} is not of this checkpoint, whose "
                f"router is {router}."
            )


def _mixture(options, backbone, shapes, placement, missing):
    """Add Mixture of Tokens' options; returns what learned ones mean."""
    mlp = names.part(backbone["moe_layers"][0], "feedforward", placement)
    has_learned = f"{mlp}temperature_merge" in shapes
    learned = options.learned_temperature
    if learned is not None and not has_learned:
        raise ConversionError(
            "--learned-temperature is not of this checkpoint, which has no "
            "temperature_merge."
        )
    if has_learned and learned is None:
        missing.append("--learned-temperature fixed|plain|positive")
    fixed = learned in (None, "fixed")
    if not fixed and options.temperature is not None:
        raise ConversionError(
            "--temperature must be left out where temperatures are learned "
            f"(--learned-temperature {learned})."
        )
    if options.temperature is None and (learned or not has_learned) and fixed:
        missing.append("--temperature T")
    missing += _asked(
        options,
        group_size="T",
        sparsity_dim="0|1 (mixed across the batch, or the sequence)",
        emit_softmax_over="experts|tokens",
    )
    backbone["router_options"].update(
        group_size=options.group_size,
        group_axis="sequence" if options.sparsity_dim else "batch",
        temperature=1.0 if options.temperature is None else options.temperature,
        emit_over_experts=options.emit_softmax_over == "experts",
        learn_temperature=not fixed,
    )
    return None if fixed else learned


def _choice(options, backbone, missing):
    """Add Expert Choice's options."""
    missing += _asked(
        options,
        topk_fraction="F",
        softmax_over="experts|tokens",
        group_by_batch="yes|no",
    )
    chosen = backbone["router_options"]
    fraction = options.topk_fraction or 0
    chosen.update(
        capacity_factor=fraction * chosen["num_experts"],
        softmax_over=options.softmax_over,
        group_axis="batch" if options.group_by_batch == "yes" else "all",
    )


def _temperatures_left_out(backbone, shapes, placement, learned):
    """Names of temperatures that the model does not read."""
    used = set()
    if learned is not None:
        emit = backbone["router_options"]["emit_over_experts"]
        used = set(names.temperature_names(emit, learned).values())
    return sorted(
        name
        for name in shapes
        if re.search(r"\.temperature_(merge|emit)$", name)
        and name.rsplit(".", 1)[-1] not in used
    )

"""Costs of a model: parameters, FLOPs and memory, from shapes alone.

Nothing here makes a weight or runs a layer.
"""

import dataclasses
import math

from keras_moe import routing

__all__ = [
    "BYTES",
    "Part",
    "Plan",
    "TRAINING_BYTES",
    "flops",
    "parts",
    "plan",
]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a parameter in training: float32 with its gradient and Adam's two
# moments. At inference it has the dtype of the activations.
TRAINING_BYTES = 16


def flops(model, num_tokens: int | None = None) -> int:
    """FLOPs of one forward pass of one example.

    A multiplication with its addition counts as 2 FLOPs. Counted are all
    products: embeddings of patches, projections, attention, experts, routing,
    dispatch and combine as they are defined (hard plans copy instead, and cost
    their router alone), the head. Not counted are norms, activations, softmax,
    sorting, and looking up ids. Of a block of `depth_layers`, the tokens that
    pass in training are counted.

    Args:
        model: a `MoEViTBackbone` or `MoTBackbone` (or a task on one). A
            model that no weights are allocated for will do.
        num_tokens: length of a text; by default `max_sequence_length`. Left
            out for images.

    Returns:
        FLOPs of an example. Mixture of Tokens mixes several: its experts'
        work is divided among them. Its `inference_mixing="self"` and
        `"argmax"` cost more.

    Example:

    >>> from keras_moe import planning
    >>> from keras_moe.models import MoEViTBackbone
    >>> backbone = MoEViTBackbone(
    ...     image_shape=(8, 8, 1), patch_size=4, num_layers=1, num_heads=2,
    ...     hidden_dim=8, mlp_dim=16)
    >>> patches, projections = 2 * 4 * 16 * 8, 2 * 4 * 4 * 8 * 8
    >>> attention, mlp = 2 * 2 * 4 * 4 * 8, 2 * 2 * 4 * 8 * 16
    >>> patches + projections + attention + mlp
    5632
    >>> planning.flops(backbone)
    5632
    """
    backbone = getattr(model, "backbone", model)
    total = sum(part.flops for part in parts(backbone, num_tokens))
    return int(total + _head_flops(model, backbone, num_tokens))


@dataclasses.dataclass(frozen=True)
class Part:
    """Costs of one part of a model for one example.

    Args:
        name: name of the part.
        flops: FLOPs of a forward pass.
        kept: numbers that a backward pass reads, in the compute dtype.
        kept_float32: those of them that are float32 in any case: the router's.
    """

    name: str
    flops: float
    kept: float
    kept_float32: float = 0


def parts(backbone, num_tokens: int | None = None) -> list[Part]:
    """List the costs of a backbone's embedding and of each of its blocks."""
    features = backbone.hidden_dim
    length, costs = _embedding(backbone, num_tokens)
    heads = backbone.num_heads
    head_dim = getattr(backbone, "head_dim", None) or features // heads
    passing = _passing(backbone, length)
    for index in range(backbone.num_layers):
        tokens = passing.get(index, length)
        if index in passing:
            work, kept = 2 * length * features, length * features
            costs.append(Part(f"block_{index}/depths", work, kept, length))
        wide = heads * head_dim
        mixing = 4 * tokens * tokens * wide
        costs.append(
            Part(
                f"block_{index}/attention",
                8 * tokens * features * wide + mixing,
                # input, its norm; q, k, v, mixed; the weights
                2 * tokens * features
                + 4 * tokens * wide
                + heads * tokens * tokens,
            )
        )
        name = f"block_{index}/mlp"
        if index in backbone.moe_layers:
            costs.append(_moe(name, backbone, tokens))
        else:
            costs.append(_mlp(name, tokens, features, backbone.mlp_dim))
    return costs


def _passing(backbone, length) -> dict:
    """Numbers of tokens that pass the blocks of `depth_layers`, by index."""
    return {
        index: routing.expert_capacity(
            length, 1, depths.capacity, rounding="round"
        )
        for index, depths in zip(backbone.depth_layers, backbone.depths)
    }


def _embedding(backbone, num_tokens):
    features = backbone.hidden_dim
    if not hasattr(backbone, "patch_size"):
        tokens = num_tokens or backbone.max_sequence_length
        return tokens, [Part("embedding", 0, tokens * features)]
    if num_tokens is not None:
        raise ValueError(
            "num_tokens must be left out for images, whose size the model "
            f"says; received {num_tokens}."
        )
    patches = math.prod(backbone.grid)
    channels = backbone.image_shape[-1]
    if backbone.data_format == "channels_first":
        channels = backbone.image_shape[0]
    pixels = math.prod(backbone.patch_size)  # of a patch
    work = kept = 0
    for dim in backbone.stem_dims:
        kept += patches * pixels * channels
        pixels //= 4
        work += 2 * patches * pixels * 9 * channels * dim
        kept += 2 * patches * pixels * dim  # before the norm and behind it
        channels = dim
    pixels *= channels
    tokens = patches + int(backbone.class_token)
    return tokens, [
        Part(
            "embedding",
            work + 2 * patches * pixels * features,
            kept + patches * pixels + tokens * features,
        )
    ]


def _mlp(name, tokens, features, hidden):
    return Part(
        name,
        4 * tokens * features * hidden,
        2 * tokens * features + 2 * tokens * hidden,
    )


def _moe(name, backbone, tokens):
    options, router = backbone.router_options, backbone.router
    features = backbone.hidden_dim
    hidden = options.get("intermediate_dim") or backbone.mlp_dim
    projections = 3 if options.get("gated", False) else 2
    experts = options["num_experts"]
    slots = _slots(router, options, tokens)  # of an example
    work = 2 * projections * slots * features * hidden
    # slots, hidden before and after the activation, answers
    kept = 2 * tokens * features + slots * (2 * features + projections * hidden)
    shared = options.get("shared_intermediate_dim") or 0
    work += 2 * projections * tokens * features * shared
    kept += tokens * projections * shared
    if router == "soft":
        pairs = tokens * slots
        # logits, dispatch, combine; those two, and tokens of length one
        routing_work, wide = 6 * pairs * features, 2 * pairs + tokens * features
    elif router == "mixture_of_tokens":
        pairs = tokens * experts
        routing_work, wide = 6 * pairs * features, 2 * pairs
    else:
        routing_work, wide = 2 * tokens * experts * features, tokens * experts
    return Part(name, work + routing_work, kept, wide)


def _slots(router, options, tokens):
    """Slots of all experts for the tokens of one example."""
    experts = options["num_experts"]
    if router == "soft":
        group = options.get("group_size") or tokens
        slots = options.get("slots_per_expert") or max(
            1, round(group * options["capacity_factor"] / experts)
        )
        return experts * slots * tokens / group
    if router == "mixture_of_tokens":
        return experts * tokens / options["group_size"]
    if options.get("capacity_factor", 1.0) is None:
        return tokens * options["top_k"]
    group = options.get("group_size") or tokens
    capacity = routing.expert_capacity(
        group,
        experts,
        options.get("capacity_factor", 1.0),
        top_k=options.get("top_k", 1),
        rounding=options.get(
            "capacity_rounding", "ceil" if router == "token_choice" else "round"
        ),
        multiple_of=options.get("capacity_multiple_of", 1),
    )
    return experts * capacity * tokens / group


def _head_flops(model, backbone, num_tokens):
    if model is backbone:
        return 0
    features = backbone.hidden_dim
    if not hasattr(backbone, "patch_size"):
        tokens = num_tokens or backbone.max_sequence_length
        return 2 * tokens * features * backbone.vocabulary_size
    total = 0
    if model.pooling == "map":
        tokens = math.prod(backbone.grid) + int(backbone.class_token)
        # queries and outputs of one token, keys and values of all; the MLP
        total += 4 * features**2 * (1 + tokens) + 4 * tokens * features
        total += 4 * features * backbone.mlp_dim
    if model.representation_size is not None:
        total += 2 * features * model.representation_size
        features = model.representation_size
    return total + 2 * features * model.num_classes


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of a model on each of several devices; sizes in bytes."""

    parameters: int
    expert_parameters: int
    flops: int
    expert_devices: int
    parameter_bytes: int
    activation_bytes: int
    device_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.parameter_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.device_bytes


def plan(
    backbone,
    shapes: dict[str, tuple],
    devices: int,
    device_bytes: int,
    batch: int = 1,
    training: bool = True,
    dtype: str = "float32",
) -> Plan:
    """Estimate what each device holds, with experts spread over devices.

    As in `keras_moe.distribution.expert_parallel`: a device has a part of each
    layer's experts (of as many devices as divide both), all other parameters,
    and the activations of its part of the batch.

    In training a parameter takes 16 bytes (float32, gradient, Adam's moments),
    and all that a backward pass reads is kept, with attention weights written
    out. With the backbone's `recompute=True`, the input of each block is kept,
    and the rest of one block at a time. At inference a parameter has the dtype
    of the activations, and the part of the model that keeps most is what there
    is at a time. What the compiler adds or saves, and the buffers of exchanges,
    are left out: expect tens of percent.

    Args:
        backbone: as in `flops`.
        shapes: shapes of its weights, as `keras_moe.models.weight_shapes`
            returns them.
        devices: how many.
        device_bytes: memory of one.
        batch: examples on each device.
        training: or inference.
        dtype: dtype of the activations, `"float32"`, `"bfloat16"` or
            `"float16"`.
    """
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    in_experts = sum(n for path, n in sizes.items() if "/experts/" in path)
    total = sum(sizes.values())
    options = getattr(backbone, "router_options", None) or {}
    expert_devices = math.gcd(devices, options.get("num_experts", 1))
    here = total - in_experts + in_experts // expert_devices
    kept = _kept_bytes(backbone, BYTES[dtype], training)
    return Plan(
        parameters=total,
        expert_parameters=in_experts,
        flops=flops(backbone),
        expert_devices=expert_devices,
        parameter_bytes=here * (TRAINING_BYTES if training else BYTES[dtype]),
        activation_bytes=int(batch * kept),
        device_bytes=device_bytes,
    )


def _kept_bytes(backbone, number, training):
    """Bytes of the activations of an example; `number` is those of one."""
    costs = parts(backbone)
    saved = [p.kept * number + 4 * p.kept_float32 for p in costs]
    if not training:
        return max(saved)
    if not backbone.recompute:
        return sum(saved)
    length, _ = _embedding(backbone, None)
    passing = _passing(backbone, length)
    inputs = sum(passing.get(i, length) for i in range(backbone.num_layers))
    total = inputs * backbone.hidden_dim * number
    blocks = [0] * backbone.num_layers
    for part, size in zip(costs, saved):
        name, _, kind = part.name.partition("/")
        if kind in ("attention", "mlp"):
            blocks[int(name.removeprefix("block_"))] += size
        else:  # the embedding, and routers of `depth_layers`
            total += size
    return total + max(blocks)

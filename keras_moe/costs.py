"""Costs of the parts of a model for one example: FLOPs, numbers kept."""

import dataclasses
import math

from keras_moe import routing


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
        kept_float32: further numbers, of the router, which are float32 with
            any compute dtype.
    """

    name: str
    flops: float
    kept: float
    kept_float32: float = 0


def parts(backbone, num_tokens: int | None = None) -> list[Part]:
    """List the costs of a backbone's embedding and of each of its blocks."""
    features = backbone.hidden_dim
    length, costs = embedding(backbone, num_tokens)
    heads = backbone.num_heads
    head_dim = getattr(backbone, "head_dim", None) or features // heads
    passing = tokens_passing(backbone, length)
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


def tokens_passing(backbone, length) -> dict:
    """Numbers of tokens that pass the blocks of `depth_layers`, by index."""
    return {
        index: routing.expert_capacity(
            length, 1, depths.capacity, rounding="round"
        )
        for index, depths in zip(backbone.depth_layers, backbone.depths)
    }


def embedding(backbone, num_tokens):
    """Length of a sequence, and a list of the `Part` that embeds it."""
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

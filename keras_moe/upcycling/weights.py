"""Weights of a mixture of experts, from an MLP or from another router's.

D features, E experts, S slots of an expert, F hidden features. Everything is
numpy, by the path of a weight below its layer.
"""

import math

import keras
import numpy as np
from scipy.cluster import vq

# Standard deviations of random router logits: that are to tell tokens apart,
# and that are to be undecided. The first, of .1, .5, 1, 2, 4, 8, 16 and 125, is
# where a Soft MoE with 16 or 64 slots was nearest to its MLP, in each of four
# trained layers of 64 features.
DECIDED, UNDECIDED = 4.0, 0.1
SCALES = tuple(float(2**k) for k in range(9))
# Arguments that say what an expert is, which every router's layer has.
EXPERT_OPTIONS = (
    "intermediate_dim",
    "activation",
    "gated",
    "use_bias",
    "dropout",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


def total_weight(router, options) -> float:
    """Average sum of the weights of one token's experts.

    With a router that prefers nobody, and no token dropped.

    Args:
        router: `None` (an MLP), or the name of a router.
        options: arguments of its layer.
    """
    if router in (None, "soft"):
        return 1.0
    experts = options["num_experts"]
    if router == "token_choice":
        return _sum_of_gates(experts, options)
    if router == "expert_choice":
        return options["capacity_factor"] / experts
    if options.get("emit_over_experts", False):
        return 1.0
    return experts / options["group_size"]  # mixture_of_tokens


def _sum_of_gates(experts, options):
    """Of token choice, with logits of zero."""
    top_k, scoring = options["top_k"], options.get("scoring", "softmax")
    if options.get("normalize_gates", False) or scoring == "softmax_top_k":
        total = 1.0
    elif scoring == "sigmoid":
        total = top_k / 2
    else:
        total = top_k / experts
    return total * options.get("routed_scaling", 1.0)


def experts_of_mlp(weights, num_experts, noise, rng) -> dict:
    """The experts' weights: the MLP's, `num_experts` times.

    Args:
        weights: of the MLP, `up/kernel` (D,F) and so on.
        num_experts: E.
        noise: standard deviation of what is added to each kernel, as a part
            of the kernel's own.
        rng: numpy's, that draws the noise.
    """
    experts = {}
    for path, value in weights.items():
        value = as_numpy(value)
        if value.ndim == 1:  # a bias; those of experts are (E,1,F)
            value = value[None]
        stacked = np.repeat(value[None], num_experts, axis=0)
        if noise > 0 and path.endswith("/kernel"):
            draw = rng.normal(size=stacked.shape).astype(stacked.dtype)
            stacked = stacked + noise * value.std() * draw
        experts[f"experts/{path}"] = stacked
    return experts


def new_router(shapes, options, rng) -> dict:
    """Weights of a new router, for experts that are still alike.

    Slots are spread over the directions of tokens and read few of them, so
    that they mix little. Kernels give logits near zero: no expert is preferred
    before there is a reason to.

    Args:
        shapes: {path: shape} of the layer's weights.
        options: arguments of the layer.
        rng: numpy's.
    """
    weights = {}
    if "slot_embedding" in shapes:
        features = shapes["slot_embedding"][0]
        slots = rng.normal(size=shapes["slot_embedding"])
        if "scale" in shapes:
            limit = options.get("max_scale") or math.inf
            weights["scale"] = min(DECIDED * features**0.5, limit)
        else:  # tokens behind a norm have a length near features ** 0.5
            slots = slots * DECIDED / features**0.5
        weights["slot_embedding"] = slots
    if "router_kernel" in shapes:
        shape = shapes["router_kernel"]
        std = UNDECIDED / shape[0] ** 0.5
        weights["router_kernel"] = rng.normal(scale=std, size=shape)
    if "router_initializer" in options:
        return {}
    return weights


def converted_router(weights, router, options, gamma, beta) -> dict:
    """A kernel (D,E) whose softmax over experts is that of another router.

    Args:
        weights: of the other router.
        router: its name.
        options: arguments of its layer.
        gamma: (D,), of the LayerNorm before the layer.
        beta: (D,), of the same.
    """
    if router == "soft":
        kernel, keys = as_numpy(weights["slot_embedding"]), 1.0
        if "key_scale" in weights:  # the offset is the same for every token
            keys = as_numpy(weights["key_scale"])
            gamma = as_numpy(gamma) * keys
            beta = as_numpy(beta) * keys + as_numpy(weights["key_offset"])
            keys = keys[:, None, None]
        if "scale" in weights:
            square = np.sum(np.square(kernel), axis=0, keepdims=True)
            kernel = kernel / np.sqrt(square + 1e-6)
            # Soft MoE divides each token by its length, a hard router does
            # not: this is the length's root mean square behind the norm.
            square = np.square(as_numpy(gamma)) + np.square(as_numpy(beta))
            kernel = kernel * as_numpy(weights["scale"]) / square.sum() ** 0.5
        return {"router_kernel": (keys * kernel).mean(axis=2)}
    kernel = as_numpy(weights["router_kernel"])
    if router == "mixture_of_tokens":
        emits = options.get("emit_over_experts", False)
        learned = "emit_temperature" if emits else "merge_temperature"
        temperature = options.get("temperature", 1.0)
        if learned in weights:
            temperature = as_numpy(weights[learned])
        kernel = kernel / temperature
    return {"router_kernel": kernel}


def calibrate(layer, mlp, tokens, seed) -> float:
    """Set the slots of a `SoftMoE` of alike experts to stay near an MLP.

    The slot embeddings become the centres of clusters of the tokens'
    directions, and `scale` the one of `SCALES`, up to the layer's `max_scale`,
    that comes nearest.

    Args:
        layer: the built `SoftMoE`, whose experts are copies of `mlp`.
        mlp: what the layer is to compute.
        tokens: (batch, tokens, D), as the layer will read them.
        seed: of the clusters' first centres.

    Returns:
        The distance from the MLP's outputs, relative to their size.
    """
    rows = as_numpy(tokens).reshape(-1, tokens.shape[-1])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shape = layer.slot_embedding.shape
    count = shape[1] * shape[2]
    if len(rows) < count:
        raise ValueError(
            f"calibration must have as many tokens as there are slots, {count}"
            f", or more; received {len(rows)}."
        )
    centres, _ = vq.kmeans2(rows, count, minit="++", seed=seed)
    layer.slot_embedding.assign(centres.T.reshape(shape))
    expected = mlp(tokens)
    distances = {}
    limit = layer.max_scale or max(SCALES)
    for scale in sorted({min(scale, limit) for scale in SCALES}):
        layer.scale.assign(scale)
        distances[scale] = distance(layer(tokens), expected)
    best = min(distances, key=lambda scale: distances[scale])
    layer.scale.assign(best)
    return distances[best]


def distance(outputs, expected) -> float:
    """|outputs - expected| / |expected|, of all numbers together."""
    outputs, expected = as_numpy(outputs), as_numpy(expected)
    return float(np.linalg.norm(outputs - expected) / np.linalg.norm(expected))


def as_numpy(value):
    """A weight or tensor in float32, or in float64 if it has it."""
    value = keras.ops.convert_to_numpy(value)
    return value.astype("float64" if value.dtype == "float64" else "float32")

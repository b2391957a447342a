"""llm-random's language models: where our variables come from."""

import functools

import numpy as np

from keras_moe.models.checkpoints.foreign_weights import Source

TOKENS = "embedding_layer.layers.0.weight"
POSITIONS = "embedding_layer.layers.1.layer.weight"
HEAD = "head.weight"
NORM_ENDS = {"layer_norm": ("weight", "bias"), "rms_norm": ("g", "b")}
EXPERTS = "expert_inner_function."


def part(index, name, placement):
    """Prefix of a block's `attention` or `feedforward`.

    Args:
        index: of the block.
        name: `"attention"` or `"feedforward"`.
        placement: of the norms, `"pre"` or `"post"`.
    """
    inner = f"layer.{name}." if placement == "pre" else f"{name}.layer."
    return f"encoder.blocks.block_{index}.block.residual_{name}.{inner}"


def norm(index, name, placement, end):
    """Name of a weight of the norm before or behind a part of a block."""
    inner = "layer.pre_norm." if placement == "pre" else "post_norm."
    return f"encoder.blocks.block_{index}.block.residual_{name}.{inner}{end}"


def sources(backbone, temperature=None):
    """{path of our variable: `Source`}.

    Args:
        backbone: arguments of `MoTBackbone`.
        temperature: what learned temperatures mean: `None` (there are none),
            `"plain"` or `"positive"`.
    """
    found = {
        "token_embedding/embeddings": Source(TOKENS),
        "token_embedding/reverse_embeddings": Source(HEAD, np.transpose),
    }
    if backbone["positions"] == "learned":
        found["position_embedding/embeddings"] = Source(POSITIONS)
    placement, heads = backbone["norm_placement"], backbone["num_heads"]
    for index in range(backbone["num_layers"]):
        ours = f"block_{index}/"
        attention = part(index, "attention", placement)
        for place, name in enumerate(("query", "key", "value")):
            found[f"{ours}attention/{name}/kernel"] = Source(
                f"{attention}input_projection.weight",
                functools.partial(_heads, place=place, count=heads),
            )
        found[f"{ours}attention/out/kernel"] = Source(
            f"{attention}output_projection.weight",
            functools.partial(_from_heads, count=heads),
        )
        for path, name in (
            ("attention_norm", "attention"),
            ("mlp_norm", "feedforward"),
        ):
            ends = NORM_ENDS[backbone["norm"]]
            for kind, end in zip(("gamma", "beta"), ends):
                found[f"{ours}{path}/{kind}"] = Source(
                    norm(index, name, placement, end)
                )
        mlp = part(index, "feedforward", placement)
        for path, source in _mlp(backbone, index, temperature).items():
            found[ours + path] = Source(mlp + source.name, source.take)
    return found


def _mlp(backbone, index, temperature):
    """{path below the block: `Source` below its feed-forward part}."""
    if index not in backbone["moe_layers"]:
        return {
            "mlp/up/kernel": Source("logging_ff_pre_relu.weight", np.transpose),
            "mlp/up/bias": Source("logging_ff_pre_relu.bias"),
            "mlp/down/kernel": Source(
                "logging_ff_post_relu.weight", np.transpose
            ),
            "mlp/down/bias": Source("logging_ff_post_relu.bias"),
        }
    options = backbone["router_options"]
    if backbone["router"] == "mixture_of_tokens":
        found = {
            "moe/router_kernel": Source("controller"),
            "moe/experts/up/kernel": Source("lin1"),
            "moe/experts/down/kernel": Source("lin2"),
        }
        if temperature is not None:
            take = functools.partial(
                _temperature, count=options["num_experts"], form=temperature
            )
            for name, source in temperature_names(
                options["emit_over_experts"], temperature
            ).items():
                found[f"moe/{name}_temperature"] = Source(source, take)
        return found
    found = {
        "moe/router_kernel": Source("gating.gate"),
        "moe/experts/up/kernel": Source(f"{EXPERTS}lin1_weight"),
        "moe/experts/down/kernel": Source(f"{EXPERTS}lin2_weight"),
    }
    if options["gated"]:
        found["moe/experts/gate/kernel"] = Source(f"{EXPERTS}gate_weight")
    if options["output_norm"]:
        found["moe/output_norm/gamma"] = Source("ln.l.weight")
        found["moe/output_norm/beta"] = Source("ln.l.bias")
    return found


def temperature_names(emit_over_experts, form):
    """{ours: llm-random's name} of the learned temperatures that it reads.

    The class that keeps them positive forgets the emit one, and takes the
    merge one twice, unless what comes back is a softmax over experts.
    """
    both = form == "plain" or emit_over_experts
    return {
        "merge": "temperature_merge",
        "emit": "temperature_emit" if both else "temperature_merge",
    }


def _temperature(learned, count, form):
    """(1,) or (E,1) → (E,). Positive ones are kept as t of exp(t - 1)."""
    learned = np.exp(learned - 1) if form == "positive" else learned
    return np.broadcast_to(learned.reshape(-1), (count,))


def _heads(packed, place, count):
    """Queries, keys or values (D,N,H) of (N·3·H,D)."""
    packed = packed.reshape(count, 3, packed.shape[0] // (3 * count), -1)
    return packed[:, place].transpose(2, 0, 1)


def _from_heads(kernel, count):
    """(D,N·H) as (N,H,D)."""
    features, width = kernel.shape
    return kernel.T.reshape(count, width // count, features)

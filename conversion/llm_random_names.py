"""llm-random's language models: how their weights become ours."""

import numpy as np


def weights(read, names, num_layers, num_heads):
    """Yield (path of our variable, array) for all weights.

    Args:
        read: name in the state dictionary → array.
        names: all names there.
        num_layers: number of blocks.
        num_heads: heads of each attention.
    """
    names = set(names)
    yield "token_embedding/embeddings", read("embedding_layer.layers.0.weight")
    positions = "embedding_layer.layers.1.layer.weight"
    if positions in names:
        yield "position_embedding/embeddings", read(positions)
    for index in range(num_layers):
        yield from _block(read, names, index, num_heads)
    yield "token_embedding/reverse_embeddings", read("head.weight").T


def _block(read, names, index, num_heads):
    block = f"encoder.blocks.block_{index}.block.residual_"
    ours = f"block_{index}/"
    post = f"{block}attention.post_norm.weight" in names or (
        f"{block}attention.post_norm.g" in names
    )
    inner = "{0}.layer." if post else "layer.{0}."
    attention = f"{block}attention." + inner.format("attention")
    packed = read(attention + "input_projection.weight")  # (3·N·H,D)
    heads = packed.shape[0] // (3 * num_heads)
    packed = packed.reshape(num_heads, 3, heads, -1)
    for place, name in enumerate(("query", "key", "value")):
        kernel = packed[:, place].transpose(2, 0, 1)  # (D,N,H)
        yield f"{ours}attention/{name}/kernel", kernel
    out = read(attention + "output_projection.weight").T  # (N·H,D)
    out = out.reshape(num_heads, heads, -1)
    yield f"{ours}attention/out/kernel", out
    for norm, part in (
        ("attention_norm", "attention"),
        ("mlp_norm", "feedforward"),
    ):
        theirs = f"{block}{part}." + ("post_norm" if post else "layer.pre_norm")
        plain = f"{theirs}.weight" in names
        yield (
            f"{ours}{norm}/gamma",
            read(theirs + (".weight" if plain else ".g")),
        )
        yield f"{ours}{norm}/beta", read(theirs + (".bias" if plain else ".b"))
    mlp = f"{block}feedforward." + inner.format("feedforward")
    if mlp + "lin1" not in names:
        for name, theirs in (
            ("up", "logging_ff_pre_relu"),
            ("down", "logging_ff_post_relu"),
        ):
            yield f"{ours}mlp/{name}/kernel", read(f"{mlp}{theirs}.weight").T
            yield f"{ours}mlp/{name}/bias", read(f"{mlp}{theirs}.bias")
        return
    lin1 = read(mlp + "lin1")
    yield f"{ours}moe/router_kernel", read(mlp + "controller")
    yield f"{ours}moe/experts/up/kernel", lin1
    yield f"{ours}moe/experts/down/kernel", read(mlp + "lin2")
    if mlp + "temperature_merge" in names:
        # Kept as t of exp(t - 1). Only the merge one is used, for both.
        learned = np.exp(read(mlp + "temperature_merge") - 1).reshape(-1)
        learned = np.broadcast_to(learned, lin1.shape[:1])
        yield f"{ours}moe/merge_temperature", learned
        yield f"{ours}moe/emit_temperature", learned

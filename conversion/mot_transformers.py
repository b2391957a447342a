"""The `mot` format of the Hugging Face Hub: configuration and names."""

DEFAULTS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "group_size": 32,
    "temperature": 1.0,
    "emit_softmax_over_experts": False,
    "use_discrete_routing": False,
    "scale_attn_by_inverse_layer_idx": False,
}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def backbone_arguments(config, shapes):
    """Arguments of `MoTBackbone` for a `config.json` and weight shapes."""
    config = {**DEFAULTS, **config}
    experts, _, size = shapes["transformer.h.0.mlp.lin1"]
    return {
        "vocabulary_size": config["vocab_size"],
        "num_layers": config["n_layer"],
        "num_heads": config["n_head"],
        "hidden_dim": config["n_embd"],
        "mlp_dim": size,
        "max_sequence_length": config["n_positions"],
        "router": "mixture_of_tokens",
        "router_options": {
            "num_experts": experts,
            "group_size": config["group_size"],
            "temperature": config["temperature"],
            "emit_over_experts": config["emit_softmax_over_experts"],
            "inference_mixing": (
                "discrete" if config["use_discrete_routing"] else "group"
            ),
            "padding": "zeros",  # as the published code completes a batch
            "use_bias": False,
        },
        "scale_attention_by_layer": config["scale_attn_by_inverse_layer_idx"],
        "activation": ACTIVATIONS[config["activation_function"]],
        "layer_norm_epsilon": config["layer_norm_epsilon"],
    }


def weights(read, num_layers, num_heads):
    """Yield (path of our variable, array) for all weights.

    Args:
        read: name in the format → array.
        num_layers: number of blocks.
        num_heads: heads of each attention.
    """
    yield "token_embedding/embeddings", read("transformer.wte.weight")
    yield "position_embedding/embeddings", read("transformer.wpe.weight")
    for index in range(num_layers):
        theirs, ours = f"transformer.h.{index}.", f"block_{index}/"
        kernel = read(theirs + "attn.c_attn.weight")  # (D,3D)
        bias = read(theirs + "attn.c_attn.bias")  # (3D,)
        features = kernel.shape[0]
        heads = (3, num_heads, features // num_heads)
        kernel, bias = kernel.reshape(features, *heads), bias.reshape(heads)
        for place, name in enumerate(("query", "key", "value")):
            yield f"{ours}attention/{name}/kernel", kernel[:, place]
            yield f"{ours}attention/{name}/bias", bias[place]
        out = read(theirs + "attn.c_proj.weight")  # (D,D)
        out = out.reshape(*heads[1:], features)
        yield f"{ours}attention/out/kernel", out
        yield f"{ours}attention/out/bias", read(theirs + "attn.c_proj.bias")
        for norm, name in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            yield f"{ours}{norm}/gamma", read(f"{theirs}{name}.weight")
            yield f"{ours}{norm}/beta", read(f"{theirs}{name}.bias")
        for name, source in (
            ("router_kernel", "controller"),
            ("experts/up/kernel", "lin1"),
            ("experts/down/kernel", "lin2"),
        ):
            yield f"{ours}moe/{name}", read(f"{theirs}mlp.{source}")
    yield "norm/gamma", read("transformer.ln_f.weight")
    yield "norm/beta", read("transformer.ln_f.bias")

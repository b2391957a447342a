"""Names of vmoe for the weights of our models: the conversion's table.

Arrays are laid out alike, but that the biases of experts have an axis more.
"""

ATTENTION = {
    **{
        f"{ours}/{part}": f"{theirs}/{part}"
        for ours, theirs in (
            ("query", "query"),
            ("key", "key"),
            ("value", "value"),
            ("out", "out"),
        )
        for part in ("kernel", "bias")
    },
    "query_norm/gamma": "query_ln/scale",
    "key_norm/gamma": "key_ln/scale",
}
DENSE = {
    "up/kernel": "Dense_0/kernel",
    "up/bias": "Dense_0/bias",
    "down/kernel": "Dense_1/kernel",
    "down/bias": "Dense_1/bias",
}
NORM = {"gamma": "scale", "beta": "bias"}


def _below(ours, theirs, table):
    return {f"{ours}/{a}": f"{theirs}/{b}" for a, b in table.items()}


BLOCK = {
    **_below("attention_norm", "LayerNorm_0", NORM),
    **_below("attention", "SelfAttention", ATTENTION),
    **_below("mlp_norm", "LayerNorm_1", NORM),
    **_below("mlp", "Mlp", DENSE),
    **_below("moe/experts", "Moe/Mlp", DENSE),
    "moe/slot_embedding": "Moe/Router/mu",
    "moe/scale": "Moe/Router/scale",
    "moe/router_kernel": "Moe/Router/dense/kernel",
}
MODEL = {
    "patch_embedding/kernel": "embedding/kernel",
    "patch_embedding/bias": "embedding/bias",
    "class_token/token": "cls",
    "positions/positions": "Encoder/posembed_input/pos_embedding",
    **_below("norm", "Encoder/encoder_norm", NORM),
    "pooler/probe": "MapHead/probe",
    **_below(
        "pooler/attention", "MapHead/MultiHeadDotProductAttention", ATTENTION
    ),
    **_below("pooler/norm", "MapHead/LayerNorm", NORM),
    **_below("pooler/mlp", "MapHead/Mlp", DENSE),
    "pre_logits/kernel": "pre_logits/kernel",
    "pre_logits/bias": "pre_logits/bias",
    "predictions/kernel": "head/kernel",
    "predictions/bias": "head/bias",
}
TWO_TOWERS = {
    "similarity/log_scale": "s",
    "similarity/bias": "b",
    "text_embedding/embeddings": "txt/Embed_0/embedding",
    "text_positions/embeddings": "txt/Encoder/posembed_input/pos_embedding",
    **_below("text_norm", "txt/Encoder/encoder_norm", NORM),
    **{
        f"{ours}_projection/{part}": f"{theirs}/head/{part}"
        for ours, theirs in (("image", "img"), ("text", "txt"))
        for part in ("kernel", "bias")
    },
}


def source_name(ours):
    """vmoe's name of the array for our variable at path `ours`."""
    first, _, rest = ours.partition("/")
    if first.startswith("block_"):
        index = first.removeprefix("block_")
        return f"Encoder/encoderblock_{index}/{BLOCK[rest]}"
    return MODEL[ours]


def two_tower_name(ours):
    """vmoe's name of the array for a variable of two towers."""
    first, _, rest = ours.partition("/")
    if ours in TWO_TOWERS:
        return TWO_TOWERS[ours]
    if first.startswith("text_block_"):
        index = first.removeprefix("text_block_")
        return f"txt/Encoder/encoderblock_{index}/{BLOCK[rest]}"
    for kind, theirs in (("image", "img"), ("text", "txt")):
        if first == f"{kind}_pooling":
            return f"{theirs}/{MODEL[f'pooler/{rest}']}"
    return f"img/{source_name(ours)}"

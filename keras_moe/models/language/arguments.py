"""Arguments of `MoTBackbone`: checked, and brought into one form."""

import keras
import numpy as np

from keras_moe import activations
from keras_moe import checks
from keras_moe.models.language.block import NORMS
from keras_moe.models.layers import depths
from keras_moe.models.layers import router_arguments
from keras_moe.models.layers.routers import LANGUAGE
from keras_moe.models.layers.routers import ROUTERS

INTEGERS = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "mlp_dim",
    "max_sequence_length",
)
FLAGS = (
    "causal",
    "final_norm",
    "attention_bias",
    "tie_embeddings",
    "scale_attention_by_layer",
    "recompute",
)
CHOICES = {
    "positions": ("learned", "rotary"),
    "norm": tuple(NORMS),
    "norm_placement": ("pre", "post"),
}
# Routers that mix tokens at one position of several sequences.
OF_BATCH = ("mixture_of_tokens", "batch_expert_choice")
# Names in the config; it has "activation" in another form.
KEPT = (
    *INTEGERS,
    *FLAGS,
    *CHOICES,
    "head_dim",
    "router",
    "moe_layers",
    "router_options",
    "depth_layers",
    "depth_options",
    "dropout",
    "layer_norm_epsilon",
)


def checked(arguments: dict) -> dict:
    """The arguments in the form that the config keeps, and `dtype`.

    Args:
        arguments: of `MoTBackbone.__init__`, by name; other keys are left out.
    """
    right = {name: checks.integer(name, arguments[name]) for name in INTEGERS}
    for name in FLAGS:
        right[name] = checks.flag(name, arguments[name])
    for name, choices in CHOICES.items():
        right[name] = checks.choice(name, arguments[name], choices)
    right["head_dim"] = _head_dim(arguments["head_dim"], right)
    right["router"] = router = arguments["router"]
    if router is not None:
        checks.choice("router", router, LANGUAGE)
    right["moe_layers"] = moe_layers(
        router, arguments["moe_layers"], right["num_layers"]
    )
    right["router_options"] = router_options(
        router, arguments["router_options"]
    )
    right["depth_layers"], right["depth_options"] = depths.checked(
        arguments["depth_layers"],
        arguments["depth_options"],
        right["num_layers"],
    )
    check_depths(router, right["moe_layers"], right["depth_layers"])
    right["activation"] = checks.resolve(
        "activation",
        activations.get,
        arguments["activation"],
        "a Keras activation",
    )
    right["dropout"] = checks.rate("dropout", arguments["dropout"])
    right["layer_norm_epsilon"] = checks.real(
        "layer_norm_epsilon", arguments["layer_norm_epsilon"], exclusive=True
    )
    right["dtype"] = checks.resolve(
        "dtype",
        keras.dtype_policies.get,
        arguments["dtype"],
        "a Keras dtype or policy",
    )
    return right


def _head_dim(head_dim, right):
    hidden, heads = right["hidden_dim"], right["num_heads"]
    head_dim = checks.optional_integer("head_dim", head_dim)
    if head_dim is None and hidden % heads:
        raise ValueError(
            f"num_heads must divide hidden_dim, {hidden}, where head_dim is "
            f"not given; received {heads}."
        )
    if right["positions"] == "rotary" and (head_dim or hidden // heads) % 2:
        raise ValueError(
            "head_dim must be even where positions='rotary'; received "
            f"{head_dim or hidden // heads}."
        )
    return head_dim


def moe_layers(router, layers, num_layers) -> tuple[int, ...]:
    """Indices of the blocks with experts; by default all, if any can be."""
    if router is None:
        if layers is None or (np.iterable(layers) and not len(layers)):
            return ()
        raise router_arguments.no_moe_layers(layers)
    if layers is None:
        return tuple(range(num_layers))
    return router_arguments.block_indices(layers, num_layers)


def check_depths(router, moe_layers, depth_layers) -> None:
    """Refuse experts that mix the batch behind a router of tokens.

    They mix the tokens at one place of the sequences that they are called on,
    and the tokens that pass stand at different places of their texts.
    """
    both = sorted(set(moe_layers) & set(depth_layers))
    if both and router in OF_BATCH:
        raise ValueError(
            "depth_layers must be other blocks than moe_layers where "
            f"router={router!r}, which mixes the batch's tokens at one "
            f"position; received {both} in both."
        )


def router_options(router, options) -> dict:
    """A dictionary that has what the router's layer needs and nothing else."""
    options = router_arguments.options_of(router, options)
    if router is None:
        return options
    router_arguments.check_known(router, ROUTERS[router], options)
    return options

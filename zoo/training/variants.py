"""Variants of a recipe, small, to see what helps.

Those of `AS_LONG` are trained as long as the recipe, the others shortly. One
seed each, all alike but for the router; what is written down is the
training and validation loss of each epoch, so that what learns too little and
what only fits its training text can be told apart.
"""

import dataclasses
import math
import pathlib

from keras_moe import files
from keras_moe.models.presets.manifest import write_json
from zoo import recipe as recipes
from zoo.measure import results
from zoo.training.train import HISTORY
from zoo.training.train import train

# Half as many blocks of half the width of mot_tiny_shakespeare's, so that the
# dense model would be short of parameters, and more bytes.
SMALL_TEXT = {
    "backbone": {
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 64,
        "mlp_dim": 256,
    },
    "batch_size": 32,
    "learning_rate": 3e-3,
    "steps_per_epoch": 600,
    "epochs": 5,
}


def mixture(num_experts, group_size, moe_layers=(0, 1), **options):
    """Arguments of a backbone; experts cost what an MLP of 256 costs."""
    return {
        "router": "mixture_of_tokens",
        "moe_layers": moe_layers,
        "router_options": {
            "num_experts": num_experts,
            "group_size": group_size,
            "intermediate_dim": 256 * group_size // num_experts,
            **options,
        },
    }


def chosen(num_experts, top_k):
    """Arguments of a backbone; chosen experts cost what an MLP of 256 costs."""
    return {
        "router": "token_choice",
        "moe_layers": (0, 1),
        "router_options": {
            "num_experts": num_experts,
            "top_k": top_k,
            "capacity_factor": None,
            "normalize_gates": True,
            "balance_bias_rate": 1e-3,
            "intermediate_dim": 256 // top_k,
        },
    }


VARIANTS = {
    "mot_tiny_shakespeare": {
        "dense": {"router": None},
        "8 experts, groups of 2": mixture(8, 2),
        "16 experts, groups of 4, last block": mixture(16, 4, (1,)),
        "16 experts, groups of 4": mixture(16, 4),
        "32 experts, groups of 8, temperatures learned from .3": mixture(
            32, 8, temperature=0.3, learn_temperature=True
        ),
    },
    # How the margin depends on experts, and which routers gain from more text.
    "moe_lm_tiny_domains": {
        "dense": {"router": None},
        "2 of 4 experts": chosen(4, 2),
        "2 of 8 experts": chosen(8, 2),
        "2 of 32 experts": chosen(32, 2),
        "4 of 64 experts": chosen(64, 4),
        "Mixture of Tokens, 16 experts, groups of 4": mixture(16, 4),
        "Mixture of Tokens, 32 experts, groups of 8": mixture(
            32, 8, temperature=0.3, learn_temperature=True
        ),
        "Expert Choice by thresholds, 16 experts": {
            "router": "expert_choice",
            "moe_layers": (0, 1),
            "router_options": {
                "num_experts": 16,
                "capacity_factor": 2.0,
                "selection": "threshold",
                "intermediate_dim": 128,
            },
        },
    },
}
# Of a table, with `rows`.
HEAD = ("router", "parameters", "bits per byte, training", "validation")
# Of which the variants keep the length of the training.
AS_LONG = ("moe_lm_tiny_domains",)


def small(recipe, variant):
    """The recipe of a variant."""
    one = small_text(recipe, VARIANTS[recipe.name][variant])
    if recipe.name in AS_LONG:
        one = dataclasses.replace(recipe, backbone=one.backbone)
    return one


def small_text(recipe, options):
    """The recipe of a small language model with these backbone arguments."""
    backbone = {**SMALL_TEXT["backbone"], **options}
    return dataclasses.replace(recipe, **{**SMALL_TEXT, "backbone": backbone})


def run(recipe, runs, data_folder=None, epochs=None) -> dict:
    """Train the variants that are not trained yet, and record them all.

    Args:
        recipe: one that has variants.
        runs: folder of all runs.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        epochs: instead of the variants' own, to try it out.

    Returns:
        {variant: parameters, training and validation curves}, in bits per byte.
    """
    if recipe.name not in VARIANTS:
        raise recipes.RecipeError(
            f"NAME must be one of {', '.join(VARIANTS)}; received "
            f"{recipe.name!r}."
        )
    found = {}
    for variant in VARIANTS[recipe.name]:
        folder = pathlib.Path(runs) / recipe.name / "variants" / variant
        one = small(recipe, variant)
        model = train(one, folder, 0, data_folder, epochs)
        found[variant] = {"parameters": model.count_params(), **curves(folder)}
    write_json(results.path_of(name_of(recipe)), found)
    return found


def name_of(recipe) -> str:
    """Name of the record in `zoo/results`."""
    return f"variants_{recipe.name}"


def curves(folder) -> dict:
    """Training and validation curves of a run, in bits per byte."""
    path = folder / "history.json"
    history = files.read_json(path, list, finite=False)
    with files.decoding(path, HISTORY):
        return {
            "training": [_bits(entry["loss"]) for entry in history],
            "validation": [_bits(entry["val_loss"]) for entry in history],
        }


def _bits(nats):
    return round(nats / math.log(2), 4)


def rows(found) -> list[tuple[str, ...]]:
    """A row of each variant on record: name, parameters, last figures."""
    return [
        (
            name,
            f"{one['parameters']:,}",
            f"{one['training'][-1]:.4f}",
            f"{one['validation'][-1]:.4f}",
        )
        for name, one in found.items()
    ]

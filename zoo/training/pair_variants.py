"""Variants of two towers that differ in the number of experts alone.

One seed each. The slots are as many, so that the experts of all variants
multiply as many numbers; only their parameters differ.
"""

import dataclasses
import pathlib

from keras_moe.models.presets.manifest import write_json
from zoo.measure import compare
from zoo.measure import evaluate
from zoo.measure import results
from zoo.tasks import task_of
from zoo.training import variants
from zoo.training.runs import PRESET
from zoo.training.train import train

SLOTS = 16
# Beside those of the recipe.
NUMBERS = {"soft_moe_two_tower_tiny_emoji": (1, 2, 4, 8)}
MEASURED = ("parameters", "recall_at_1", "recall_at_5")


def variant(recipe, num_experts):
    """The recipe with so many experts, each of fewer or more slots."""
    options = {
        **recipe.backbone["router_options"],
        "num_experts": num_experts,
        "slots_per_expert": SLOTS // num_experts,
    }
    backbone = {**recipe.backbone, "router_options": options}
    return dataclasses.replace(recipe, backbone=backbone)


def title(num_experts) -> str:
    """Name of a variant, and of its folder."""
    slots = SLOTS // num_experts
    return (
        f"{num_experts} expert{'s'[: num_experts > 1]} of "
        f"{slots} slot{'s'[: slots > 1]}"
    )


def run(recipe, runs, data_folder=None, epochs=None) -> dict:
    """Train the variants that are not trained yet, and record them all.

    Args:
        recipe: one of `NUMBERS`.
        runs: folder of all runs.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        epochs: instead of the recipe's, to try it out.

    Returns:
        {variant: parameters, FLOPs, recall on test data, curve of recall on
        validation data}.
    """
    task, found = task_of(recipe), {}
    for number in NUMBERS[recipe.name]:
        name, one = title(number), variant(recipe, number)
        folder = pathlib.Path(runs) / recipe.name / "variants" / name
        model = train(one, folder, 0, data_folder, epochs)
        measured = evaluate.evaluate(
            one, folder / PRESET, data_folder, folder / "evaluation.json"
        )
        found[name] = {
            **{figure: measured[figure] for figure in MEASURED},
            "flops": task.flops(model),
            "validation": compare.figures(one, folder),
        }
    write_json(results.path_of(variants.name_of(recipe)), found)
    return found

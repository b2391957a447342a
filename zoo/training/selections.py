"""Ways in which experts choose tokens of a causal language model, compared.

Small models, one seed each, alike but for `selection`. With `"top_k"`, and in
the training of `"top_k_then_threshold"`, which tokens an expert takes depends
on later ones, which no model has while it writes; the other figures are of
causal models.
"""

import dataclasses
import pathlib

import numpy as np
from keras import ops

from keras_moe import diagnostics
from keras_moe import files
from keras_moe.layers.expert_router import SELECTIONS
from keras_moe.models.presets.manifest import write_json
from zoo.data import datasets
from zoo.measure import results
from zoo.tasks.text import TEXT
from zoo.training import variants
from zoo.training.train import HISTORY
from zoo.training.train import train

# Experts cost what the dense MLP of 256 costs.
EXPERTS = {"num_experts": 8, "capacity_factor": 1.0}
WINDOWS = 32  # of validation text, whose routing is looked at
# Ten minutes of one core for all selections on PyTorch.
LENGTH = {"batch_size": 16, "steps_per_epoch": 200, "epochs": 5}


def small(recipe, selection):
    """The recipe of a small model with this selection."""
    options = {**EXPERTS, "selection": selection}
    one = variants.small_text(
        recipe, {"router": "expert_choice", "router_options": options}
    )
    return dataclasses.replace(one, **LENGTH)


def run(recipe, runs, data_folder=None, epochs=None) -> dict:
    """Train the models that are not trained yet, and record them all.

    Args:
        recipe: of a language model.
        runs: folder of all runs.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        epochs: instead of the models' own, to try it out.

    Returns:
        {selection: training and validation curves in bits per byte; `max_load`,
        of each block with experts the largest share of an expert in the pairs
        of a token and an expert, times E, after each epoch; `dropped`, likewise
        the share of tokens without an expert; `load`, of each such block the
        share of tokens that each expert takes; `differ`, of the first one the
        share of the pairs of a token and an expert that top-k would not choose
        alike}. The last four are of validation text and the choice outside of
        training.
    """
    text = datasets.load(recipe.data, data_folder)["validation"]
    found = {}
    for selection in SELECTIONS:
        folder = pathlib.Path(runs) / recipe.name / "selections" / selection
        one = small(recipe, selection)
        inputs, _ = TEXT.examples(text, one)
        inputs = {key: value[:WINDOWS] for key, value in inputs.items()}
        monitor = diagnostics.RouterMonitor(inputs)
        model = train(one, folder, 0, data_folder, epochs, callbacks=[monitor])
        found[selection] = variants.curves(folder) | _monitored(folder)
        chosen = _chosen(model.backbone, inputs)
        twin = TEXT.build(small(recipe, "top_k"), text).backbone
        weights = {w.path: w for w in model.backbone.weights}
        for weight in twin.weights:
            weight.assign(weights[weight.path])
        taken = _chosen(twin, inputs)[0]
        found[selection]["load"] = [
            block.mean(axis=(0, 1)).tolist() for block in chosen
        ]
        pairs = chosen[0].sum() + taken.sum()
        differ = (chosen[0] != taken).sum() / pairs
        found[selection]["differ"] = float(differ)
    write_json(results.path_of(f"selections_{recipe.name}"), found)
    return found


def _monitored(folder):
    """Read what `RouterMonitor` logged of each block with experts."""
    path = folder / "history.json"
    history = files.read_json(path, list, finite=False)
    with files.decoding(path, HISTORY):
        return {
            fact: [
                [round(entry[name], 4) for entry in history]
                for name in sorted(history[0])
                if name.endswith(f"/{fact}")
            ]
            for fact in ("max_load", "dropped")
        }


def _chosen(backbone, inputs):
    """Of each block with experts, which token has which: Boolean (G,T,E)."""
    with diagnostics.capture() as plans:
        backbone(inputs, training=False)
    arrays = [plan.weights()[0] for plan in plans.values()]
    return [np.any(ops.convert_to_numpy(a) > 0, axis=-1) for a in arrays]

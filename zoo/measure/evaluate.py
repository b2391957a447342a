"""Evaluation of a trained preset on data it has not seen."""

import pathlib

import keras

import keras_moe
from keras_moe import files
from keras_moe.models.presets.manifest import write_json
from zoo.data import datasets
from zoo.tasks import task_of


def evaluate(recipe, preset, data_folder=None, record=None, mixing=None):
    """Measure a preset on the test part of its recipe's data set.

    Args:
        recipe: what was trained.
        preset: name or folder.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        record: JSON file to write the result to, or `None`.
        mixing: `inference_mixing` to measure, instead of the preset's own.

    Returns:
        A dictionary of what was measured.
    """
    task = task_of(recipe)
    model = task.model_class.from_preset(str(preset))
    if mixing is not None:
        model.inference_mixing = mixing
    test = datasets.load(recipe.data, data_folder)["test"]
    result = {
        "recipe": recipe.name,
        "data": recipe.data,
        **task.evaluate(model, test, recipe),
        "parameters": model.count_params(),
        "backend": keras.backend.backend(),
        "keras_moe": keras_moe.__version__,
    }
    if record is not None:
        write_json(record, result)
    return result


def evaluations(folder, part="."):
    """{seed: what `evaluate` recorded} of the runs below `folder`.

    Args:
        folder: of the runs of a recipe.
        part: folder in that of each run.
    """
    found = {}
    for run in pathlib.Path(folder).glob("seed-*"):
        path = run / part / "evaluation.json"
        if path.is_file():
            seed = int(run.name.removeprefix("seed-"))
            found[seed] = files.read_json(path, finite=False)
    return dict(sorted(found.items()))


def summary(folder, metric, part="."):
    """{seed: figure} of the evaluated runs below `folder`."""
    found = evaluations(folder, part)
    return {seed: one[metric] for seed, one in found.items()}

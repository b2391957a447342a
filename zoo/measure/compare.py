"""A recipe beside its dense twin: equal steps, equal time, a picture."""

import pathlib
import statistics

import keras
import numpy as np

import zoo
from keras_moe import files
from keras_moe.models.presets.manifest import write_bytes
from keras_moe.models.presets.manifest import write_json
from zoo import recipe as recipes
from zoo.measure import results
from zoo.publish import picture
from zoo.tasks import task_of
from zoo.training.train import HISTORY

FIGURES = pathlib.Path(zoo.__file__).parent / "figures"


def name_of(recipe) -> str:
    """Name of the comparison in `zoo/results`."""
    return f"comparison_{recipe.name}"


def compare(recipe, runs) -> dict:
    """Hold the runs of a recipe against those of its twin.

    At equal steps the trained models are compared on test data. At equal time
    the slower one is stopped when the faster is through: its figure on
    validation data is read off between the ends of two epochs, the other's at
    its last. That is hard on the slower one, whose learning rate is not down
    to zero yet.

    Args:
        recipe: one that has a twin.
        runs: folder of all runs, with those of both trained and evaluated.

    Returns:
        The record. Margins are positive where the recipe is the better one.

    Raises:
        ResultError: where runs or the step times are missing.
    """
    if recipe.twin is None:
        raise recipes.RecipeError(f"{recipe.name} has no twin.")
    task = task_of(recipe)
    sign = 1 if task.higher_is_better else -1
    both = [recipe, recipes.load(recipe.twin)]
    tests = [_tests(one, pathlib.Path(runs) / one.name) for one in both]
    curves = [
        {seed: curve(one, runs, seed) for seed in found}
        for one, found in zip(both, tests)
    ]
    means = [statistics.mean(found.values()) for found in tests]
    ratio = _step_time(recipe)
    epochs = recipe.epochs
    until = [min(epochs, epochs / ratio), min(epochs, epochs * ratio)]
    at_time = [
        statistics.mean(_read_off(one, end) for one in found.values())
        for found, end in zip(curves, until)
    ]
    return {
        "recipe": recipe.name,
        "twin": recipe.twin,
        "metric": task.metric,
        "step_time_ratio": ratio,
        "flops": _flops(recipe),
        "twin_flops": _flops(both[1]),
        "equal_steps": {
            "of": "test data",
            "mean": means[0],
            "twin_mean": means[1],
            "margin": sign * (means[0] - means[1]),
            "standard_deviation": results.deviation(tests[0].values()),
            "twin_standard_deviation": results.deviation(tests[1].values()),
        },
        "equal_time": {
            "of": "validation data",
            "epochs": until[0],
            "twin_epochs": until[1],
            "mean": at_time[0],
            "twin_mean": at_time[1],
            "margin": sign * (at_time[0] - at_time[1]),
        },
        "validation": dict(zip((one.name for one in both), curves)),
    }


def curve(recipe, runs, seed) -> list:
    """The figure on validation data after each epoch of a run."""
    return figures(recipe, pathlib.Path(runs) / recipe.name / f"seed-{seed}")


def figures(recipe, folder) -> list:
    """The figure on validation data after each epoch of the run in a folder."""
    path = folder / "history.json"
    task = task_of(recipe)
    history = files.read_json(path, list, finite=False)
    with files.decoding(path, HISTORY):
        return [task.validation_figure(entry) for entry in history]


def is_better(comparison) -> bool:
    """Tell if the margin at equal time exceeds twice the spread of seeds."""
    steps = comparison["equal_steps"]
    spreads = [steps[f"{of}standard_deviation"] for of in ("", "twin_")]
    if None in spreads:  # of a single seed
        return False
    return comparison["equal_time"]["margin"] > 2 * max(spreads)


def winners() -> list[str]:
    """Names of the recipes whose recorded comparison `is_better`."""
    found = {
        name: results.load(name_of(recipes.load(name)))
        for name in recipes.names()
    }
    return [name for name, one in found.items() if one and is_better(one)]


def write(recipe, runs) -> dict:
    """Compare, keep the record, and draw it."""
    comparison = compare(recipe, runs)
    write_json(results.path_of(name_of(recipe)), comparison)
    write_bytes(FIGURES / f"{recipe.name}.png", draw(comparison))
    return comparison


def draw(comparison) -> bytes:
    """The validation curves of every seed, by epochs and by time, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    stretch = {
        comparison["recipe"]: comparison["step_time_ratio"],
        comparison["twin"]: 1.0,
    }
    for colour, (name, seeds) in zip("rk", comparison["validation"].items()):
        for number, values in enumerate(seeds.values()):
            epochs = np.arange(1, len(values) + 1)
            label = f"{name}, {len(seeds)} seeds" if number == 0 else None
            style = {"color": colour, "alpha": 0.7, "label": label}
            left.plot(epochs, values, **style)
            right.plot(epochs * stretch[name], values, **style)
    left.set(xlabel="epochs", ylabel=f"validation {comparison['metric']}")
    right.set(xlabel="time, in epochs of the dense twin")
    left.legend(fontsize=8)
    return picture.png(figure)


def _tests(recipe, runs):
    metric = task_of(recipe).metric
    found = results.evaluated(recipe, runs)
    return {str(seed): one[metric] for seed, one in found.items()}


def _flops(recipe):
    """FLOPs of one example, forward, as `keras_moe.planning` counts them."""
    task = task_of(recipe)
    part = task.noise(recipe, np.random.default_rng(0))
    return task.flops(task.build(recipe, part))


def _step_time(recipe):
    backend = keras.backend.backend()
    record = results.load(f"step_time_{recipe.name}_{backend}")
    if record is None:
        raise results.ResultError(
            f"the step times of {recipe.name} and its twin are not measured on "
            f"{backend}; run python -m zoo step-time {recipe.name} first."
        )
    return record["ratio"]


def _read_off(values, epochs):
    """A curve at a time between the ends of epochs."""
    return float(np.interp(epochs, np.arange(1, len(values) + 1), values))

"""Measurements of recipes, kept in `zoo/results` as JSON."""

import pathlib
import statistics

import zoo
from keras_moe import files
from keras_moe.models.presets import manifest
from zoo.errors import ResultError as ResultError
from zoo.measure import evaluate
from zoo.tasks import task_of
from zoo.training import runs as folders

FOLDER = pathlib.Path(zoo.__file__).parent / "results"


def path_of(name):
    return FOLDER / f"{name}.json"


def load(name):
    """The recorded results of a recipe, `None` if there are none."""
    path = path_of(name)
    return files.read_json(path, finite=False) if path.is_file() else None


def evaluated(recipe, runs, part=".") -> dict:
    """{seed: what was measured} of a recipe's runs in their folder.

    Args:
        recipe: what was trained.
        runs: folder of its runs.
        part: folder in that of each run.

    Raises:
        ResultError: if there is none.
    """
    found = evaluate.evaluations(runs, part)
    if not found:
        further = part == folders.FURTHER
        raise ResultError(
            f"no evaluated run of {recipe.name} lies in {runs}; run "
            f"{folders.evaluation_of(recipe, runs, further)} first."
        )
    return found


def deviation(values) -> float | None:
    """The standard deviation of figures, `None` of a single one."""
    return statistics.stdev(values) if len(values) > 1 else None


def record_preset(recipe, runs, preset):
    """Write what was measured of the preset that ships.

    The recorded figures of all seeds stay, though `runs` may lack some seeds.

    Args:
        recipe: what was trained.
        runs: folder of its runs.
        preset: what `zoo.publish.pack.pack` returns.

    Returns:
        The record.

    Raises:
        ResultError: where the preset's seed was trained otherwise than it is
            recorded.
    """
    seed, result = str(preset["seed"]), load(recipe.name)
    if not result or seed not in result["seeds"]:
        return record(recipe, runs, preset)
    trained = files.read_json(
        pathlib.Path(runs) / f"seed-{seed}" / "training.json"
    )
    recorded = result["training"][seed]
    for name in ("steps", "learning_rate"):
        if trained[name] != recorded.get(name, trained[name]):
            raise ResultError(
                f"seed {seed} of {recipe.name} was trained with {name} "
                f"{trained[name]}, and is recorded with {recorded[name]}; run "
                f"`python -m zoo record {recipe.name}` first."
            )
    result["preset"] = preset
    manifest.write_json(path_of(recipe.name), result)
    return result


def record(recipe, runs, preset=None):
    """Gather what the runs of a recipe measured into one file.

    Args:
        recipe: what was trained.
        runs: folder of its runs, with `seed-…/evaluation.json`.
        preset: what was measured of the preset that ships, or `None` to keep
            what is recorded of it.

    Returns:
        The record.
    """
    measured = evaluated(recipe, runs)
    one = next(iter(measured.values()))
    before = load(recipe.name) or {}
    result = {
        "recipe": recipe.name,
        "data": recipe.data,
        "metric": task_of(recipe).metric,
        "test_examples": one.get("images", one.get("bytes")),
        "parameters": one["parameters"],
        **_of_seeds(recipe, runs, measured),
        "preset": preset or before.get("preset"),
    }
    if "further" in before:
        result["further"] = before["further"]
    manifest.write_json(path_of(recipe.name), result)
    return result


def record_further(recipe, runs):
    """Add what `further` made of the runs to the record of a recipe.

    Args:
        recipe: what was trained.
        runs: folder of its runs, with `seed-…/further/evaluation.json`.

    Returns:
        The record.

    Raises:
        ResultError: where there are no such runs, or the recipe itself has no
            record.
    """
    measured = evaluated(recipe, runs, folders.FURTHER)
    result = load(recipe.name)
    if result is None:
        raise ResultError(
            f"nothing is recorded of {recipe.name}; run `python -m zoo record "
            f"{recipe.name}` first."
        )
    result["further"] = _of_seeds(recipe, runs, measured, folders.FURTHER)
    manifest.write_json(path_of(recipe.name), result)
    return result


def _of_seeds(recipe, runs, measured, part="."):
    """Figures and training of each seed, their mean and their spread."""
    task = task_of(recipe)
    seeds = {str(seed): one[task.metric] for seed, one in measured.items()}
    values = list(seeds.values())
    trained = {}
    for seed in measured:
        run = pathlib.Path(runs) / f"seed-{seed}" / part
        trained[str(seed)] = files.read_json(run / "training.json")
    return {
        "seeds": seeds,
        "mean": statistics.mean(values),
        "standard_deviation": deviation(values),
        **_more(task, measured),
        "training": trained,
    }


def _more(task, measured):
    """Other figures of each seed, where a task or its data have some."""
    found = {}
    if task.more_metrics:
        found["more"] = {
            str(seed): {name: one[name] for name in task.more_metrics}
            for seed, one in measured.items()
        }
    if all("domains" in one for one in measured.values()):
        found["domains"] = {
            str(seed): one["domains"] for seed, one in measured.items()
        }
    return found

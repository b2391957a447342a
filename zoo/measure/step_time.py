"""Time of a training step of a recipe, beside that of its twin."""

import statistics
import time

import keras
import numpy as np
from tqdm import tqdm

from zoo import recipe as recipes
from zoo.tasks import task_of
from zoo.training.train import compiled

WARM = 3


def stepper(recipe):
    """A training step of a recipe on random data, and its parameters."""
    task = task_of(recipe)
    keras.utils.set_random_seed(0)
    part = task.noise(recipe, np.random.default_rng(0))
    task_model = task.build(recipe, part)
    model = compiled(task, recipe, task.trainer(task_model), steps=1000)
    inputs, targets = task.batches(part, recipe, 0, 1)[0]
    return lambda: model.train_on_batch(
        inputs, targets
    ), task_model.count_params()


def compare(recipe, repeats=30):
    """Step time of a recipe over that of its twin, interleaved in one run.

    Returns:
        A dictionary: both medians in seconds, the median of the ratios of
        neighbouring steps and its quartiles, parameters of both.
    """
    twin = recipes.load(recipe.twin)
    (ours, parameters), (theirs, twin_parameters) = (
        stepper(recipe),
        stepper(twin),
    )
    for _ in range(WARM):
        ours(), theirs()
    pairs = []
    for _ in tqdm(range(repeats), unit="pair"):
        pairs.append((_time(ours), _time(theirs)))
    ratios = [a / b for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "recipe": recipe.name,
        "twin": twin.name,
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "seconds": statistics.median(a for a, _ in pairs),
        "twin_seconds": statistics.median(b for _, b in pairs),
        "parameters": parameters,
        "twin_parameters": twin_parameters,
        "repeats": repeats,
        "backend": keras.backend.backend(),
    }


def _time(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start

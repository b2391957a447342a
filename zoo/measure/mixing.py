"""Costs of each way of mixing at inference for a language model."""

import statistics
import time

import keras
import numpy as np
from tqdm import tqdm

from keras_moe.models import MoTCausalLM
from zoo.data import datasets
from zoo.tasks.text import TEXT

MODES = ("group", "self", "argmax")
BATCH = 32
WARM, REPEATS = 2, 10


def compare(recipe, preset, data_folder=None):
    """Loss and speed of a preset in each mode.

    Args:
        recipe: what was trained.
        preset: name or folder.
        data_folder: where the data set lies, see `zoo.data.datasets`.

    Returns:
        {mode: {"bits_per_byte": on test data, "time": of a batch's forward
        pass, as a multiple of that in group mode, interleaved}}.
    """
    test = datasets.load(recipe.data, data_folder)["test"]
    found, forwards = {}, {}
    inputs, _ = TEXT.examples(test, recipe)
    inputs = {key: value[:BATCH] for key, value in inputs.items()}
    for mode in MODES:
        model = MoTCausalLM.from_preset(str(preset))
        model.inference_mixing = mode
        found[mode] = {
            "bits_per_byte": TEXT.evaluate(model, test, recipe)["bits_per_byte"]
        }
        forwards[mode] = keras.Model(model.input, model.output)
    times = {mode: [] for mode in MODES}
    for repeat in tqdm(range(WARM + REPEATS), unit="round"):
        for mode, forward in forwards.items():
            start = time.perf_counter()
            np.asarray(forward.predict_on_batch(inputs))
            if repeat >= WARM:
                times[mode].append(time.perf_counter() - start)
    for mode in MODES:
        ratios = [a / b for a, b in zip(times[mode], times["group"])]
        found[mode]["time"] = statistics.median(ratios)
    return found

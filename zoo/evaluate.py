"""How good a trained preset is, on images it has not seen."""

import json
import pathlib

import keras
import numpy as np
from tqdm import tqdm

import keras_moe
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models.presets import write_json
from zoo import data as datasets


def accuracy(classifier, images, labels, batch_size=250):
    """The share of images whose largest logit is that of their label."""
    right = 0
    for start in tqdm(range(0, len(images), batch_size), unit="batch"):
        part = slice(start, start + batch_size)
        # Through the preprocessor, as users' images come.
        logits = classifier.predict(images[part], verbose=0)
        right += int((np.argmax(logits, axis=-1) == labels[part]).sum())
    return right / len(images)


def evaluate(recipe, preset, data_folder=None, record=None):
    """Accuracy of a preset on the test images of its recipe's data set.

    Args:
        recipe: what was trained.
        preset: name or folder.
        data_folder: where the data set lies, see `zoo.data`.
        record: JSON file to write the result to, or `None`.

    Returns:
        A dictionary of what was measured.
    """
    classifier = MoEViTImageClassifier.from_preset(str(preset))
    images, labels = datasets.DATASETS[recipe.data](data_folder)["test"]
    result = {
        "recipe": recipe.name,
        "data": recipe.data,
        "test_images": len(images),
        "test_accuracy": accuracy(classifier, images, labels),
        "parameters": classifier.count_params(),
        "backend": keras.backend.backend(),
        "keras_moe": keras_moe.__version__,
    }
    if record is not None:
        write_json(record, result)
    return result


def summary(folder):
    """{seed: test accuracy} of the evaluated runs below `folder`."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("seed-*/evaluation.json")):
        seed = int(path.parent.name.removeprefix("seed-"))
        found[seed] = json.loads(path.read_text())["test_accuracy"]
    return found

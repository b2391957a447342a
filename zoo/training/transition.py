"""Changes of trained models: other routing, or more training.

A Mixture of Tokens mixes tokens of different texts while it is trained; at
inference it need not (`inference_mixing`). A few steps in which it computes as
it will at inference close part of the gap (transition tuning, `tune`), and so
do a few steps after a router was turned into another one (`turn`). More epochs
from a lower learning rate train a model further (`further`).
"""

import contextlib
import dataclasses
import pathlib

import keras

import keras_moe
from keras_moe import files
from keras_moe.models import MoTCausalLM
from keras_moe.models.presets.manifest import write_json
from zoo.data import datasets
from zoo.tasks import task_of
from zoo.tasks.text import TEXT
from zoo.training.runs import FURTHER
from zoo.training.runs import preset_of
from zoo.training.train import History
from zoo.training.train import Progress
from zoo.training.train import compiled
from zoo.training.train import train

# Added to the seed: other examples than in the training before.
TUNING = 1_000_000


class AsAtInference(keras.Model):
    """Computes in training what it computes at inference."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def tune(recipe, run, mode, steps, learning_rate, seed=0, data_folder=None):
    """Tune the preset of a run for one `inference_mixing`.

    Args:
        recipe: what was trained.
        run: folder of the run, with `preset`; `tuned-MODE` is written there.
        mode: of `inference_mixing`, `"self"` or `"argmax"`.
        steps: of tuning.
        learning_rate: peak, after which it falls to zero.
        seed: of the examples.
        data_folder: where the data set lies, see `zoo.data.datasets`.

    Returns:
        The folder of the tuned preset, in which `mode` is the default.
    """
    run = pathlib.Path(run)
    recipe = dataclasses.replace(
        recipe, steps_per_epoch=steps, learning_rate=learning_rate
    )
    preset = preset_of(recipe, run)
    parts = datasets.load(recipe.data, data_folder)
    model = MoTCausalLM.from_preset(str(preset))
    model.inference_mixing = mode
    batches = TEXT.batches(parts["train"], recipe, TUNING + seed, 1)
    folder = run / f"tuned-{mode}"
    _fit(
        compiled(TEXT, recipe, AsAtInference(model.input, model.output), steps),
        batches,
        steps,
        f"{recipe.name} tuned for {mode}",
        run / f"tuned-{mode}.json",
        **TEXT.validation(parts["validation"], recipe),
    )
    model.save_to_preset(folder)
    write_json(
        run / f"tuned-{mode}-options.json",
        {"mode": mode, "steps": steps, "learning_rate": learning_rate},
    )
    return folder


def further(
    recipe,
    run,
    epochs,
    learning_rate,
    seed=0,
    data_folder=None,
    start=None,
):
    """Train a run's preset on: another warm-up, another cosine down to zero.

    The recipe is followed with the changes in its `further`.

    Args:
        recipe: what was trained.
        run: folder of the run; `further` in it is that of what is trained on.
        epochs: how many more.
        learning_rate: peak of the second cosine.
        seed: of the run.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        start: name or folder of the preset, instead of the run's own.

    Returns:
        The folder of the preset that comes of it.

    Raises:
        ResultError: if there is no preset to start from.
    """
    folder = pathlib.Path(run) / FURTHER
    if start is None:
        start = preset_of(recipe, run)
    train(
        dataclasses.replace(
            recipe, **recipe.further, learning_rate=learning_rate
        ),
        folder,
        TUNING + seed,
        data_folder,
        epochs,
        start,
    )
    path = folder / "training.json"
    write_json(path, files.read_json(path) | {"changes": recipe.further})
    return folder / "preset"


def _fit(model, batches, steps, title, record, **validation):
    """Train for the first so many batches, with a bar and a history."""
    batches.epochs = -(-steps // batches.steps)
    with contextlib.closing(Progress(title, History(record), steps)) as bar:
        model.fit(
            batches,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[bar],
            **validation,
        )


def turn(
    recipe,
    preset,
    router,
    options,
    folder,
    steps,
    learning_rate,
    seed=0,
    data_folder=None,
):
    """Turn the router of a preset into another one, and tune the result.

    Args:
        recipe: what the preset was trained by.
        preset: name or folder.
        router: what `keras_moe.upcycle` turns it into.
        options: arguments of the new router.
        folder: where the preset is written that comes of it.
        steps: of tuning.
        learning_rate: peak, after which it falls to zero.
        seed: of the examples.
        data_folder: where the data set lies, see `zoo.data.datasets`.

    Returns:
        A dictionary of what was done, and the figure on test data that the
        recipe's task has, before, after the turn, and after tuning.
    """
    task = task_of(recipe)
    parts = datasets.load(recipe.data, data_folder)
    folder = pathlib.Path(folder)
    model = task.model_class.from_preset(str(preset))

    def measured():
        return task.evaluate(model, parts["test"], recipe)[task.metric]

    figures = {"before": measured()}
    model = keras_moe.upcycle(model, router, router_options=options)
    figures["turned"] = measured()
    recipe = dataclasses.replace(recipe, learning_rate=learning_rate)
    batches = task.batches(parts["train"], recipe, TUNING + seed, 1)
    _fit(
        compiled(task, recipe, task.trainer(model), steps),
        batches,
        steps,
        f"{recipe.name} turned into {router}",
        folder.with_suffix(".json"),
    )
    figures["tuned"] = measured()
    model.save_to_preset(folder)
    return {
        "recipe": recipe.name,
        "router": router,
        "router_options": options,
        "steps": steps,
        "learning_rate": learning_rate,
        "metric": task.metric,
        **figures,
        "backend": keras.backend.backend(),
        "keras_moe": keras_moe.__version__,
    }

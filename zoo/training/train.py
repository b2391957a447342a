"""Training a preset: seeded, with a progress bar, resumable."""

import contextlib
import json
import pathlib
import platform
import time

import keras
from tqdm import tqdm

import keras_moe
from keras_moe import files
from keras_moe.models.presets.manifest import write_json
from zoo.data import datasets
from zoo.tasks import task_of
from zoo.training.runs import PRESET
from zoo.training.states import States

HISTORY = "history of a training run"


class Progress(keras.callbacks.Callback):
    """One bar for the run, and its history."""

    def __init__(self, title, history, steps, done=0):
        super().__init__()
        self.title, self.history = title, history
        self.steps, self.done, self.bar = steps, done, None

    def on_train_begin(self, logs=None):
        self.bar = tqdm(
            total=self.steps, initial=self.done, desc=self.title, unit="step"
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if batch % 50 == 0:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        seconds = round(time.perf_counter() - self.started, 1)
        entry = {k: round(float(v), 5) for k, v in logs.items()}
        self.history[epoch] = {"epoch": epoch, "seconds": seconds, **entry}
        tqdm.write(json.dumps(self.history[epoch]))

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """End the bar, also where training was broken off."""
        if self.bar is not None:
            self.bar.close()


class History(dict):
    """Epoch → record, kept in a JSON file as it grows."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if self.path.is_file():
            # A loss that diverged is NaN.
            content = files.read_json(self.path, list, finite=False)
            with files.decoding(self.path, HISTORY):
                super().__init__({entry["epoch"]: entry for entry in content})

    def __setitem__(self, epoch, entry):
        super().__setitem__(epoch, entry)
        write_json(self.path, [self[key] for key in sorted(self)])


def optimizer_of(recipe, steps):
    """AdamW, warmed up, then down a cosine to zero at the last step."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        warmup_target=recipe.learning_rate,
        warmup_steps=max(1, round(recipe.warmup * steps)),
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=recipe.weight_decay, global_clipnorm=1.0
    )
    # Biases, norms and lone vectors are not pulled to zero.
    optimizer.exclude_from_weight_decay(
        var_names=["bias", "scale", "gamma", "beta", "positions", "token"]
    )
    return optimizer


def compiled(task, recipe, model, steps):
    """Compile a plain model as a recipe has it, and return it."""
    model.compile(optimizer=optimizer_of(recipe, steps), **task.losses(recipe))
    return model


def train(
    recipe,
    folder,
    seed=0,
    data_folder=None,
    epochs=None,
    start=None,
    callbacks=(),
):
    """Train a recipe, or go on with a run that was broken off.

    Args:
        recipe: what to train.
        folder: of the run: state after the last epoch in `backup`,
            `history.json`, and in the end the preset in `preset`.
        seed: of weights, data order and augmentation.
        data_folder: where the data set lies, see `zoo.data.datasets`.
        epochs: instead of the recipe's, to try it out.
        start: name or folder of a preset to start from, instead of new weights.
        callbacks: Keras callbacks, whose logs of an epoch the history keeps.

    Returns:
        The trained task, such as a classifier.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)  # an error here is soon
    epochs = recipe.epochs if epochs is None else epochs
    task = task_of(recipe)
    parts = datasets.load(recipe.data, data_folder)
    keras.utils.set_random_seed(seed)
    if start is None:
        task_model = task.build(recipe, parts["train"])
    else:
        task_model = task.model_class.from_preset(str(start))
    history = History(folder / "history.json")
    batches = task.batches(
        parts["train"], recipe, seed, epochs, first_epoch=len(history)
    )
    steps, done = (batches.steps * e for e in (epochs, len(history)))
    model = compiled(task, recipe, task.trainer(task_model), steps)
    states = States(folder / "backup", history)
    states.restore(model)
    if len(history) < epochs:  # else only the preset is to be written
        bar = Progress(f"{recipe.name} seed {seed}", history, steps, done)
        with contextlib.closing(bar):
            model.fit(
                batches,
                initial_epoch=len(history),
                epochs=epochs,
                steps_per_epoch=batches.steps,
                shuffle=False,  # the order is that of `Batches`
                verbose=0,
                # The history follows the state, and keeps all logs.
                callbacks=[
                    *callbacks,
                    *task.callbacks(task_model, parts),
                    states,
                    bar,
                ],
                **task.validation(parts["validation"], recipe),
            )
    task_model.save_to_preset(folder / PRESET)
    write_json(
        folder / "training.json",
        {
            "recipe": recipe.name,
            "seed": seed,
            "epochs": epochs,
            "steps": steps,
            "learning_rate": recipe.learning_rate,
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "keras_moe": keras_moe.__version__,
            "python": platform.python_version(),
            "seconds": round(sum(e["seconds"] for e in history.values())),
        },
    )
    return task_model

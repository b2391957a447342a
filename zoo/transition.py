"""Transition tuning: a trained Mixture of Tokens learns to work unmixed.

While it is trained, a model mixes tokens of different texts; at inference it
need not (`inference_mixing`). A few steps in which it computes as it will at
inference close part of the gap.
"""

import dataclasses
import pathlib

import keras

from keras_moe.models import MoTCausalLM
from keras_moe.models.presets import write_json
from zoo import data as datasets
from zoo import text
from zoo.train import History
from zoo.train import Progress
from zoo.train import compiled

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
        data_folder: where the data set lies, see `zoo.data`.

    Returns:
        The folder of the tuned preset, in which `mode` is the default.
    """
    run = pathlib.Path(run)
    recipe = dataclasses.replace(
        recipe, steps_per_epoch=steps, learning_rate=learning_rate
    )
    parts = datasets.load(recipe.data, data_folder)
    model = MoTCausalLM.from_preset(str(run / "preset"))
    model.inference_mixing = mode
    batches = text.Batches(parts["train"], recipe, TUNING + seed, 1)
    tuned = compiled(text, recipe, model, steps, AsAtInference)
    folder = run / f"tuned-{mode}"
    tuned.fit(
        batches,
        shuffle=False,
        verbose=0,
        validation_data=text.examples(parts["validation"], recipe),
        validation_batch_size=text.EVALUATION_BATCH,
        callbacks=[
            Progress(
                f"{recipe.name} tuned for {mode}",
                batches,
                History(run / f"tuned-{mode}.json"),
            )
        ],
    )
    model.save_to_preset(folder)
    write_json(
        run / f"tuned-{mode}-options.json",
        {"mode": mode, "steps": steps, "learning_rate": learning_rate},
    )
    return folder

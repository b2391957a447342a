"""Language models of bytes: how they are made, fed and measured."""

import math

import keras
import numpy as np
from tqdm import tqdm

from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from keras_moe.models import MoTCausalLMPreprocessor
from keras_moe.models import MoTTokenizer
from zoo.data.batches import SeededBatches
from zoo.tasks.task import Supervised

ORDER_SEED = 0  # of the windows that are measured together


def pairs(windows):
    """Windows of L + 1 bytes as the model takes them: L ids, L next ids."""
    windows = windows.astype("int32")
    inputs = {
        "token_ids": windows[:, :-1],
        "padding_mask": np.ones_like(windows[:, :-1]),
    }
    return inputs, windows[:, 1:]


class Batches(SeededBatches):
    """Batches of windows from anywhere in the text."""

    def __init__(self, text, recipe, seed, epochs, first_epoch=0):
        self.text = text
        super().__init__(
            recipe, seed, epochs, recipe.steps_per_epoch, first_epoch
        )

    def make(self, epoch, step, rng):
        length = self.recipe.sequence_length
        starts = rng.integers(
            0, len(self.text) - length, self.recipe.batch_size
        )
        return pairs(self.text[starts[:, None] + np.arange(length + 1)])


class TextTask(Supervised):
    """Language models of bytes, measured in bits per byte."""

    model_class = MoTCausalLM
    batches_class = Batches
    evaluation_batch = 64
    metric, metric_title = "bits_per_byte", "bits per byte"
    higher_is_better = False

    def validation_figure(self, entry):
        """Bits per byte on validation data, of an entry of a run's history."""
        return entry["val_loss"] / math.log(2)

    def build(self, recipe, part):
        """The language model of a recipe, with new weights."""
        tokenizer = MoTTokenizer.byte_level()
        backbone = MoTBackbone(
            vocabulary_size=tokenizer.vocabulary_size(),
            max_sequence_length=recipe.sequence_length,
            **recipe.backbone,
        )
        preprocessor = MoTCausalLMPreprocessor(
            tokenizer, sequence_length=recipe.sequence_length
        )
        return MoTCausalLM(backbone, preprocessor)

    def loss(self, recipe):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def examples(self, text, recipe):
        """Windows that cover a text once, in a fixed random order.

        In that order, windows that a layer mixes with each other are not
        neighbours in the text: nobody is told by a batch-mate how it goes on.
        """
        length = recipe.sequence_length
        count = (len(text) - 1) // length
        if count > self.evaluation_batch:  # so that all batches are alike
            count -= count % self.evaluation_batch
        starts = length * np.arange(count)
        starts = np.random.default_rng(ORDER_SEED).permutation(starts)
        return pairs(text[starts[:, None] + np.arange(length + 1)])

    def noise(self, recipe, rng):
        """A text of random bytes."""
        return rng.integers(0, 256, 100_000).astype("u1")

    def evaluate(self, model, text, recipe):
        """Bits that the model needs for a byte, knowing those before it."""
        inputs, targets = self.examples(text, recipe)
        scorer = keras.Model(model.input, model.output)
        scorer.compile(loss=self.loss(recipe))
        total = 0.0
        for start in tqdm(
            range(0, len(targets), self.evaluation_batch), unit="batch"
        ):
            batch = slice(start, start + self.evaluation_batch)
            part = {key: value[batch] for key, value in inputs.items()}
            nats = scorer.test_on_batch(part, targets[batch])
            total += float(nats) * targets[batch].size
        return {
            "bits_per_byte": total / targets.size / math.log(2),
            "bytes": int(targets.size),
        }


TEXT = TextTask()

"""Language models of bytes: how they are made, fed and measured."""

import math
import statistics

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


def by_domain(part):
    """A part of the data as {domain: text}; a lone text has no name."""
    return part if isinstance(part, dict) else {None: part}


class Batches(SeededBatches):
    """Batches of windows from anywhere in the text.

    Of texts of several domains, each window is of any of them, alike.
    """

    def __init__(self, part, recipe, seed, epochs, first_epoch=0):
        self.texts = list(by_domain(part).values())
        super().__init__(
            recipe, seed, epochs, recipe.steps_per_epoch, first_epoch
        )

    def make(self, epoch, step, rng):
        length, count = self.recipe.sequence_length, self.recipe.batch_size
        lengths = np.array([len(text) for text in self.texts])
        if len(lengths) == 1:
            chosen = np.zeros(count, int)
        else:
            chosen = rng.integers(0, len(lengths), count)
        starts = rng.integers(0, lengths[chosen] - length)
        windows = [
            self.texts[text][start : start + length + 1]
            for text, start in zip(chosen, starts)
        ]
        return pairs(np.stack(windows))


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

    def examples(self, part, recipe):
        """Windows that cover texts once, in a fixed random order.

        In that order, windows that a layer mixes with each other are not
        neighbours in the text: nobody is told by a batch-mate how it goes on.
        Domains, which have texts of one length, take turns.
        """
        found = [
            self._windows(text, recipe) for text in by_domain(part).values()
        ]
        windows = np.stack(found, axis=1)
        return pairs(windows.reshape(-1, windows.shape[-1]))

    def _windows(self, text, recipe):
        length = recipe.sequence_length
        count = (len(text) - 1) // length
        if count > self.evaluation_batch:  # so that all batches are alike
            count -= count % self.evaluation_batch
        starts = length * np.arange(count)
        starts = np.random.default_rng(ORDER_SEED).permutation(starts)
        return text[starts[:, None] + np.arange(length + 1)]

    def noise(self, recipe, rng):
        """A text of random bytes."""
        return rng.integers(0, 256, 100_000).astype("u1")

    def evaluate(self, model, part, recipe):
        """Bits that the model needs for a byte, knowing those before it.

        Of texts of several domains, the mean over these, and each of them.
        """
        scorer = keras.Model(model.input, model.output)
        scorer.compile(loss=self.loss(recipe))
        texts = by_domain(part)
        count = {}
        bits = {}
        for domain, text in texts.items():
            inputs, targets = self.examples(text, recipe)
            count[domain] = targets.size
            bits[domain] = self._bits(scorer, inputs, targets)
        result = {
            "bits_per_byte": statistics.mean(bits.values()),
            "bytes": sum(count.values()),
        }
        return result if None in texts else {**result, "domains": bits}

    def _bits(self, scorer, inputs, targets):
        total = 0.0
        for start in tqdm(
            range(0, len(targets), self.evaluation_batch), unit="batch"
        ):
            batch = slice(start, start + self.evaluation_batch)
            some = {key: value[batch] for key, value in inputs.items()}
            nats = scorer.test_on_batch(some, targets[batch])
            total += float(nats) * targets[batch].size
        return total / targets.size / math.log(2)


TEXT = TextTask()

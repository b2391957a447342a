"""Two towers of drawings and names: how they are made, fed and measured."""

import functools
import math

import keras
import numpy as np

from keras_moe import planning
from keras_moe.losses import contrastive_loss
from keras_moe.models import CaptionTokenizer
from keras_moe.models import MoETwoTower
from keras_moe.models import MoETwoTowerBackbone
from keras_moe.models import MoETwoTowerPreprocessor
from keras_moe.models import MoEViTBackbone
from keras_moe.models import TextTransformerBackbone
from keras_moe.models import image_converter
from zoo.data import emoji
from zoo.data.batches import SeededBatches
from zoo.data.distortion import Distortion
from zoo.data.distortion import sharp
from zoo.tasks.task import Task
from zoo.tasks.vision import ready

TAGS = 2  # most of them in a caption
# Before a name, as in a query or a template of a class.
PHRASES = (
    "a",
    "the",
    "some",
    "a picture of a",
    "a photo of a",
    "an emoji of a",
)
BATCH = 256  # drawings or names that are encoded together


def captions_of(part):
    """Each text that the names and tags of a part hold words of."""
    return [
        " ".join((name, *tags)) for name, tags in zip(part.names, part.tags)
    ]


def caption(name, tags, rng):
    """A text for a drawing: tags of it, half of the times with its name."""
    count = rng.integers(1, TAGS + 1)
    words = list(rng.permutation(tags)[:count])
    if rng.random() < 0.5:
        words.insert(rng.integers(0, len(words) + 1), name)
    return " ".join(words)


def phrased(text, rng):
    """A text after one of the phrases that people put before it."""
    phrase = PHRASES[rng.integers(len(PHRASES))]
    vowel = phrase.split()[-1] == "a" and text[0] in "aeiou"
    return f"{phrase}{'n' * vowel} {text}"


class Batches(SeededBatches):
    """Batches of distorted drawings, with their names or tags."""

    def __init__(self, part, recipe, seed, epochs, first_epoch=0):
        self.part = part
        self.preprocessor = preprocessor(recipe, part)
        self.distortion = Distortion(
            part.images,
            recipe.backbone["image_shape"][0],
            shift=recipe.shift,
            turn=recipe.turn,
            zoom=recipe.zoom,
            colour=recipe.colour,
        )
        names = self.preprocessor(list(part.names))
        self.names = {
            key: keras.ops.convert_to_numpy(value).astype("int32")
            for key, value in names.items()
        }
        super().__init__(
            recipe, seed, epochs, recipe.steps_per_epoch, first_epoch
        )

    def make(self, epoch, step, rng):
        part, recipe = self.part, self.recipe
        index = rng.choice(len(part.labels), recipe.batch_size, replace=False)
        labels = part.labels[index]
        texts = {key: value[labels] for key, value in self.names.items()}
        self._write(texts, labels, rng)
        images = ready(self.distortion(index, rng))
        return {"images": images, **texts}, labels

    def _write(self, texts, labels, rng):
        """Put captions with tags or phrases in the place of some names."""
        names, tags = (
            [values[label] for label in labels]
            for values in (self.part.names, self.part.tags)
        )
        rows = np.flatnonzero(rng.random(len(labels)) < self.recipe.tagged)
        captions = {
            row: caption(names[row], tags[row], rng)
            for row in rows
            if tags[row]
        }
        if self.recipe.phrased:
            drawn = rng.random(len(labels)) < self.recipe.phrased
            for row in np.flatnonzero(drawn):
                captions[row] = phrased(captions.get(row, names[row]), rng)
        if captions:
            written = self.preprocessor(list(captions.values()))
            for key, value in written.items():
                texts[key][[*captions]] = keras.ops.convert_to_numpy(value)


def preprocessor(recipe, part):
    """The layer that makes drawings and captions ready.

    Its words are those of `part`.
    """
    tokenizer = CaptionTokenizer.from_captions(
        captions_of(part), recipe.vocabulary_size
    )
    return MoETwoTowerPreprocessor(
        image_converter(recipe.backbone["image_shape"]),
        tokenizer,
        recipe.sequence_length,
    )


class Trainer(keras.Model):
    """Compares drawings with captions; those of one name belong together.

    Args:
        model: `MoETwoTower`.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output)
        # In a function: these weights are tracked already.
        self.compare = functools.partial(
            _compare, model.backbone.similarity, model.loss
        )

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return sum(self.losses, self.compare(y_pred, y))


def _compare(similarity, kind, embeddings, labels):
    return contrastive_loss(
        **embeddings,
        logit_scale=similarity.logit_scale,
        logit_bias=similarity.logit_bias,
        kind=kind,
        captions=labels,
    )


class Recall(keras.callbacks.Callback):
    """Adds the recall of validation drawings to the logs of each epoch.

    Args:
        model: `MoETwoTower`, which shares the trained model's weights.
        part: `Drawings`.
    """

    def __init__(self, model, part):
        super().__init__()
        self.two_tower, self.part = model, part

    def on_epoch_end(self, epoch, logs=None):
        scores = similarities(self.two_tower, self.part)
        found = recalls(ranks(scores, self.part.labels))
        logs.update({f"val_{name}": value for name, value in found.items()})


def recalls(ranks):
    """Shares of the drawings with the right name first, or among five."""
    return {f"recall_at_{k}": float((ranks < k).mean()) for k in (1, 5)}


class PairTask(Task):
    """Two towers, measured by the names that they find for new drawings."""

    model_class = MoETwoTower
    batches_class = Batches
    evaluation_batch = BATCH
    metric, metric_title = "recall_at_1", "recall@1"
    higher_is_better = True
    tolerance = 2e-3  # three of the drawings
    more_metrics = {
        "recall_at_5": "recall@5",
        "search_recall_at_1": "recall@1 of drawings by their names",
        "search_recall_at_5": "recall@5 of drawings by their names",
        "new_names_recall_at_1": "recall@1 among names that are new",
        "new_names_recall_at_5": "recall@5 among names that are new",
    }

    def validation_figure(self, entry):
        """Recall@1 on validation data, of an entry of a run's history."""
        return entry["val_recall_at_1"]

    def build(self, recipe, part):
        ready_for = preprocessor(recipe, part)
        image_tower = MoEViTBackbone(**recipe.backbone)
        text_tower = TextTransformerBackbone(
            ready_for.tokenizer.vocabulary_size(),
            max_sequence_length=recipe.sequence_length,
            **recipe.text,
        )
        for weight in (*image_tower.weights, *text_tower.weights):
            if weight.name == "scale" and weight.shape == ():  # of a SoftMoE
                weight.assign(recipe.initial_scale)
        backbone = MoETwoTowerBackbone(image_tower, text_tower, **recipe.towers)
        return MoETwoTower(backbone, ready_for, loss=recipe.loss, compile=False)

    def trainer(self, model):
        return Trainer(model)

    def losses(self, recipe):
        return {}

    def callbacks(self, model, parts):
        return [Recall(model, parts["validation"])]

    def validation(self, part, recipe):
        return {}

    def noise(self, recipe, rng):
        """Drawings of random pixels, with as many words as a recipe has."""
        shape = (recipe.batch_size, *recipe.backbone["image_shape"])
        words = tuple(f"word{n}" for n in range(recipe.vocabulary_size))
        return emoji.Drawings(
            rng.integers(0, 256, shape).astype("u1"),
            np.arange(recipe.batch_size, dtype="int32"),
            words,
            ((),) * len(words),
        )

    def flops(self, model):
        """FLOPs of a drawing and a caption, with their projections."""
        backbone = model.backbone
        towers = (backbone.image_tower, backbone.text_tower)
        kernels = [
            weight
            for weight in backbone.weights
            if weight.path.endswith("_projection/kernel")
        ]
        return sum(map(planning.flops, towers)) + 2 * sum(
            math.prod(kernel.shape) for kernel in kernels
        )

    def evaluate(self, model, part, recipe):
        """Recall of names of drawings, of drawings by names, of new names.

        Of names that no training has seen, a drawing's is to be found among
        those of the part.
        """
        known, new = part
        scores = similarities(model, known)
        found = {
            "": ranks(scores, known.labels),
            "search_": search_ranks(scores, known.labels),
            "new_names_": ranks(similarities(model, new), new.labels),
        }
        figures = {
            f"{kind}{name}": value
            for kind, one in found.items()
            for name, value in recalls(one).items()
        }
        return {
            **figures,
            "images": len(known.labels),
            "names": len(known.names),
            "new_names": len(new.names),
        }


def similarities(model, part):
    """Products (drawings,names) of the embeddings of a part."""
    pixels = model.backbone.image_tower.image_shape[0]
    images = model.encode_image(sharp(part.images, pixels), BATCH)
    return images @ model.encode_text(list(part.names), BATCH).T


def ranks(scores, labels):
    """The number of other names that fit each drawing no worse than its own.

    Scores that are no numbers fit as well: nothing is found by them.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    return (~(scores < own)).sum(axis=1) - 1


def search_ranks(scores, labels):
    """The number of others that fit each name no worse than its best drawing.

    Of names with drawings alone; the others are drawings of other names.
    """
    drawn = np.unique(labels)
    own = np.array([scores[labels == label, label].max() for label in drawn])
    others = labels[:, None] != drawn
    return (others & ~(scores[:, drawn] < own)).sum(axis=0)


PAIRS = PairTask()

"""Image classifiers: how they are made, fed and measured."""

import keras
import numpy as np
from tqdm import tqdm

from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import MoEViTImageClassifierPreprocessor
from keras_moe.models import image_converter
from zoo.data import datasets
from zoo.data.batches import SeededBatches

CLASS = MoEViTImageClassifier
EVALUATION_BATCH = 250
# What `evaluate` gives first, how it is called, and whether more is better.
METRIC, METRIC_TITLE, HIGHER_IS_BETTER = "accuracy", "accuracy", True


def validation_figure(entry):
    """Accuracy on validation data, of an entry of a run's history."""
    return entry["val_accuracy"]


def build(recipe):
    """The classifier of a recipe, with new weights."""
    backbone = MoEViTBackbone(**recipe.backbone)
    for weight in backbone.weights:
        if weight.name == "scale" and weight.shape == ():  # of a SoftMoE
            weight.assign(recipe.initial_scale)
    converter = image_converter(backbone.image_shape)
    return MoEViTImageClassifier(
        backbone,
        len(datasets.CLASSES[recipe.data]),
        preprocessor=MoEViTImageClassifierPreprocessor(converter),
        class_names=datasets.CLASSES[recipe.data],
        **recipe.classifier,
    )


def ready(images):
    """Pixels 0…255 as the model reads them, like `image_converter`'s."""
    return images.astype("float32") / 127.5 - 1


def one_hot(labels, recipe):
    classes = len(datasets.CLASSES[recipe.data])
    return np.eye(classes, dtype="float32")[labels]


def loss(recipe):
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )


def examples(part, recipe):
    """A part of the data as the model takes it."""
    images, labels = part
    return ready(images), one_hot(labels, recipe)


def noise(recipe, rng):
    """A part of data as large as a batch, of random pixels and labels."""
    shape = (recipe.batch_size, *recipe.backbone["image_shape"])
    images = rng.integers(0, 256, shape).astype("u1")
    return images, rng.integers(0, 10, recipe.batch_size)


class Batches(SeededBatches):
    """Augmented batches of images."""

    def __init__(self, part, recipe, seed, epochs, first_epoch=0):
        self.images, labels = part
        self.labels = one_hot(labels, recipe)
        self._shuffled = None, None
        steps = len(self.images) // recipe.batch_size
        super().__init__(recipe, seed, epochs, steps, first_epoch)

    def order(self, epoch):
        """The order of the images in one epoch."""
        if self._shuffled[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._shuffled = epoch, rng.permutation(len(self.images))
        return self._shuffled[1]

    def make(self, epoch, step, rng):
        size, recipe = self.recipe.batch_size, self.recipe
        chosen = self.order(epoch)[step * size : (step + 1) * size]
        images = datasets.augment(
            self.images[chosen],
            rng,
            flip=recipe.flip,
            shift=recipe.shift,
            erase=recipe.erase,
        )
        return ready(images), self.labels[chosen]


def evaluate(classifier, part, recipe):
    """The share of images whose largest logit is that of their label."""
    images, labels = part
    right = 0
    for start in tqdm(range(0, len(images), EVALUATION_BATCH), unit="batch"):
        batch = slice(start, start + EVALUATION_BATCH)
        # Through the preprocessor, as users' images come.
        logits = classifier.predict(images[batch], verbose=0)
        right += int((np.argmax(logits, axis=-1) == labels[batch]).sum())
    return {"accuracy": right / len(images), "images": len(images)}

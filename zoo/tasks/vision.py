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
from zoo.tasks.task import Supervised


def ready(images):
    """Pixels 0…255 as the model reads them, like `image_converter`'s."""
    return images.astype("float32") / 127.5 - 1


def one_hot(labels, recipe):
    classes = len(datasets.CLASSES[recipe.data])
    return np.eye(classes, dtype="float32")[labels]


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


class VisionTask(Supervised):
    """Image classifiers, measured by their accuracy."""

    model_class = MoEViTImageClassifier
    batches_class = Batches
    evaluation_batch = 250
    metric, metric_title = "accuracy", "accuracy"
    higher_is_better = True

    def validation_figure(self, entry):
        """Accuracy on validation data, of an entry of a run's history."""
        return entry["val_accuracy"]

    def build(self, recipe, part):
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

    def loss(self, recipe):
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        )

    def examples(self, part, recipe):
        """A part of the data as the model takes it."""
        images, labels = part
        return ready(images), one_hot(labels, recipe)

    def noise(self, recipe, rng):
        """A part of data as large as a batch, of random pixels and labels."""
        shape = (recipe.batch_size, *recipe.backbone["image_shape"])
        images = rng.integers(0, 256, shape).astype("u1")
        return images, rng.integers(0, 10, recipe.batch_size)

    def evaluate(self, classifier, part, recipe):
        """The share of images whose largest logit is that of their label."""
        images, labels = part
        right = 0
        for start in tqdm(
            range(0, len(images), self.evaluation_batch), unit="batch"
        ):
            batch = slice(start, start + self.evaluation_batch)
            # Through the preprocessor, as users' images come.
            logits = classifier.predict(images[batch], verbose=0)
            right += int((np.argmax(logits, axis=-1) == labels[batch]).sum())
        return {"accuracy": right / len(images), "images": len(images)}


VISION = VisionTask()

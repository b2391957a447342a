"""Interface of the tasks that recipes train."""

import abc

import keras

from keras_moe import planning


class Task(abc.ABC):
    """Builds, feeds and measures the models of one kind of recipe.

    Attributes:
        model_class: class of the models, with `from_preset`.
        batches_class: class of the batches of a run, `SeededBatches`.
        evaluation_batch: examples of a batch of validation or test data.
        metric: key of the figure that `evaluate` returns first.
        metric_title: its name in tables and cards.
        higher_is_better: whether a larger figure is a better one.
        tolerance: how much worse than a run's own figure its preset in half
            precision may be: a hundredth of a percentage point, or of a bit
            per byte.
        more_metrics: {key: name in tables} of further figures that `evaluate`
            returns and records keep.
    """

    model_class: type
    batches_class: type
    evaluation_batch: int
    metric: str
    metric_title: str
    higher_is_better: bool
    tolerance: float = 1e-4
    more_metrics: dict[str, str] = {}

    @abc.abstractmethod
    def validation_figure(self, entry) -> float:
        """Return the metric on validation data of one entry of a history."""

    @abc.abstractmethod
    def build(self, recipe, part):
        """Build the model of a recipe, with new weights.

        Args:
            recipe: what is trained.
            part: of the data that it is trained on.
        """

    def trainer(self, model):
        """Return the plain model that `fit` trains: KerasHub's would make
        batches ready that are."""
        return keras.Model(model.input, model.output)

    @abc.abstractmethod
    def losses(self, recipe) -> dict:
        """Return what `compile` takes beside the optimiser."""

    def callbacks(self, model, parts) -> list:
        """Return callbacks that add figures to the history of a run."""
        return []

    @abc.abstractmethod
    def validation(self, part, recipe) -> dict:
        """Return what `fit` takes of validation data."""

    @abc.abstractmethod
    def noise(self, recipe, rng):
        """Return a part of data of random values, to time a step with."""

    def batches(self, part, recipe, seed, epochs, first_epoch=0):
        """Return the `SeededBatches` of a run."""
        return self.batches_class(part, recipe, seed, epochs, first_epoch)

    def flops(self, model) -> int:
        """Count the FLOPs of one example, forward."""
        return planning.flops(model)

    @abc.abstractmethod
    def evaluate(self, model, part, recipe) -> dict:
        """Measure a model: the metric, and the number of examples."""


class Supervised(Task):
    """Models of one output, each example of which has a target."""

    @abc.abstractmethod
    def loss(self, recipe):
        """Return the loss of training and validation."""

    @abc.abstractmethod
    def examples(self, part, recipe):
        """Return a part of the data as (inputs, targets) of the model."""

    def losses(self, recipe):
        return {"loss": self.loss(recipe), "metrics": ["accuracy"]}

    def validation(self, part, recipe):
        return {
            "validation_data": self.examples(part, recipe),
            "validation_batch_size": self.evaluation_batch,
        }

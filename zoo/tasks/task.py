"""Interface of the tasks that recipes train."""

import abc


class Task(abc.ABC):
    """Builds, feeds and measures the models of one kind of recipe.

    Attributes:
        model_class: class of the models, with `from_preset`.
        batches_class: class of the batches of a run, `SeededBatches`.
        evaluation_batch: examples of a batch of validation or test data.
        metric: key of the figure that `evaluate` returns first.
        metric_title: its name in tables and cards.
        higher_is_better: whether a larger figure is a better one.
    """

    model_class: type
    batches_class: type
    evaluation_batch: int
    metric: str
    metric_title: str
    higher_is_better: bool

    @abc.abstractmethod
    def validation_figure(self, entry) -> float:
        """Return the metric on validation data of one entry of a history."""

    @abc.abstractmethod
    def build(self, recipe):
        """Build the model of a recipe, with new weights."""

    @abc.abstractmethod
    def loss(self, recipe):
        """Return the loss of training and validation."""

    @abc.abstractmethod
    def examples(self, part, recipe):
        """Return a part of the data as (inputs, targets) of the model."""

    @abc.abstractmethod
    def noise(self, recipe, rng):
        """Return a part of data of random values, to time a step with."""

    def batches(self, part, recipe, seed, epochs, first_epoch=0):
        """Return the `SeededBatches` of a run."""
        return self.batches_class(part, recipe, seed, epochs, first_epoch)

    @abc.abstractmethod
    def evaluate(self, model, part, recipe) -> dict:
        """Measure a model: the metric, and the number of examples."""

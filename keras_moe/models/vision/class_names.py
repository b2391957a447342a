"""Names of classes: checked, and put to a classifier's outputs."""

import keras
import numpy as np

from keras_moe import checks
from keras_moe.models.task_inputs import received


def checked(names, num_classes: int) -> tuple[str, ...] | None:
    """The names as a tuple; `None` if there are none.

    Args:
        names: strings, one for each class, or `None`.
        num_classes: number of classes.

    Raises:
        ValueError: for another number of them, and for names that are no
            strings, empty, or given twice.
    """
    if names is None:
        return None
    expected = (
        f"class_names must be None or {num_classes} different strings, one "
        "for each of num_classes"
    )
    if not isinstance(names, (list, tuple, np.ndarray)):
        raise ValueError(f"{expected}; {received(names)}.")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{expected}; {received(name)} among them.")
    names = tuple(str(name) for name in names)
    if len(names) != num_classes or len(set(names)) != len(names):
        raise ValueError(
            f"{expected}; received {len(names)}, {len(set(names))} of them "
            "different."
        )
    return names


class NamedClasses:
    """A classifier that knows what its classes are called.

    It has `num_classes`, `activation` and `predict`.
    """

    _class_names = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the outputs.

        It can be set, and is saved in presets and `.keras` files.
        """
        return self._class_names

    @class_names.setter
    def class_names(self, names):
        self._class_names = checked(names, self.num_classes)

    def decode_predictions(self, predictions, top_k: int = 1) -> list:
        """The names of the largest outputs of each image, the best first.

        Args:
            predictions: (batch, num_classes), what `predict` returns.
            top_k: how many names are wanted of each image.

        Returns:
            For each image a list of `(name, score)`. Scores are probabilities
            where the outputs are logits (`activation=None`), the outputs
            themselves otherwise.

        Raises:
            ValueError: for outputs of another shape, a `top_k` that does not
                fit, and a classifier without `class_names`.
        """
        if checks.integer("top_k", top_k) > self.num_classes:
            raise ValueError(
                f"top_k must be at most num_classes, {self.num_classes}; "
                f"received {top_k}."
            )
        if self.class_names is None:
            raise ValueError(
                f"class_names must be set, {self.num_classes} strings, to "
                "name classes; received None."
            )
        scores = np.asarray(
            keras.ops.convert_to_numpy(predictions), dtype="float64"
        )
        if scores.ndim != 2 or scores.shape[1] != self.num_classes:
            raise ValueError(
                "predictions must have the shape (batch, "
                f"{self.num_classes}); received {scores.shape}."
            )
        if self.activation in (None, keras.activations.linear):
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = scores / scores.sum(axis=1, keepdims=True)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return [
            [(self.class_names[index], float(row[index])) for index in best]
            for row, best in zip(scores, order)
        ]

    def classify(self, images, top_k: int = 1, **kwargs) -> list:
        """The names of the likeliest classes of each image, the best first.

        Args:
            images: as for `predict`.
            top_k: how many names are wanted of each image.
            **kwargs: arguments of `predict`, such as `batch_size`.

        Returns:
            As `decode_predictions`.
        """
        kwargs = {"verbose": 0, **kwargs}
        return self.decode_predictions(self.predict(images, **kwargs), top_k)

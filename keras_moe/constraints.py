"""Constraints that Keras does not have."""

import keras
from keras import ops

from keras_moe import checks

__all__ = [
    "MaxSize",
]


@keras.saving.register_keras_serializable(package="keras_moe")
class MaxSize(keras.constraints.Constraint):
    """Keeps every entry of a weight within ±`max_value`.

    Args:
        max_value: the largest size of an entry, greater than 0.

    Example:

    >>> import keras, keras_moe
    >>> limit = keras_moe.constraints.MaxSize(40.0)
    >>> float(limit(keras.ops.convert_to_tensor(-50.0)))
    -40.0
    """

    def __init__(self, max_value: float):
        self.max_value = checks.real("max_value", max_value, exclusive=True)

    def __call__(self, w):
        return ops.clip(w, -self.max_value, self.max_value)

    def get_config(self) -> dict:
        return {"max_value": self.max_value}

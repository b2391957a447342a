"""Initialisers for stacked kernels, whose first axis counts experts."""

import keras
from keras import ops

from keras_moe import checks

__all__ = [
    "PerExpert",
]


@keras.saving.register_keras_serializable(package="keras_moe")
class PerExpert(keras.initializers.Initializer):
    """Draws the kernel of each expert by itself and stacks them.

    Keras reads the first axis of a stacked kernel (E,D,F) as a receptive
    field, which makes its usual initialisers √E too small. Here
    `initializer` sees the shape of one expert, (D,F). The layers wrap their
    `kernel_initializer` in this class, unless it is an instance already.

    Args:
        initializer: any Keras initialiser, name or instance.
        identical: `False` gives every expert its own draw, an initialiser
            with a fixed integer seed being given the seeds `seed + e`.
            `True` gives all experts the first draw, as the runs of the Soft
            MoE paper did.

    Example:

    >>> import keras_moe
    >>> init = keras_moe.initializers.PerExpert("he_normal", identical=True)
    >>> layer = keras_moe.layers.SoftMoE(
    ...     4, 1, intermediate_dim=16, kernel_initializer=init)
    """

    def __init__(self, initializer="glorot_uniform", identical=False):
        self.initializer = checks.resolve(
            "initializer",
            keras.initializers.get,
            initializer,
            "a Keras initialiser or its name",
        )
        self.identical = checks.flag("identical", identical)

    def __call__(self, shape, dtype=None):
        experts, *one = shape
        if self.identical:
            kernel = self.initializer(one, dtype=dtype)
            return ops.repeat(kernel[None], experts, axis=0)
        return ops.stack(
            [self._of_expert(e)(one, dtype=dtype) for e in range(experts)]
        )

    def _of_expert(self, expert):
        """The initialiser again, with a seed of its own if it has one."""
        if not isinstance(self.initializer, keras.initializers.Initializer):
            return self.initializer  # a plain function
        config = self.initializer.get_config()
        if isinstance(config.get("seed"), int):
            config["seed"] += expert
        return self.initializer.__class__.from_config(config)

    def get_config(self):
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "identical": self.identical,
        }

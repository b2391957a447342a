"""Embeddings of unit length, and logits of pairs of them."""

import math

import keras
from keras import ops

from keras_moe import routing


class _AtMost(keras.constraints.Constraint):
    """Keeps a weight from growing beyond a number."""

    def __init__(self, largest):
        self.largest = largest

    def __call__(self, w):
        return ops.minimum(w, ops.cast(self.largest, w.dtype))


@keras.saving.register_keras_serializable(package="keras_moe")
class Similarity(keras.layers.Layer):
    """Scales features to unit length; holds the scale and bias of logits.

    z = x / ‖x‖, logits = exp(s) · z_image z_textᵀ + b, with learned scalars s
    and b. All of it is computed in float32.

    Args:
        initial_logit_scale: what exp(s) starts from.
        initial_logit_bias: what b starts from.
        max_logit_scale: what an optimiser keeps exp(s) below, or `None`.
    """

    def __init__(
        self,
        initial_logit_scale=10.0,
        initial_logit_bias=-10.0,
        max_logit_scale=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_logit_scale = max_logit_scale
        self.initial_logit_scale = initial_logit_scale
        self.initial_logit_bias = initial_logit_bias

    def build(self, input_shape):
        starts = {
            "log_scale": math.log(self.initial_logit_scale),
            "bias": self.initial_logit_bias,
        }
        bound = None
        if self.max_logit_scale is not None:
            bound = _AtMost(math.log(self.max_logit_scale))
        bounds = {"log_scale": bound, "bias": None}
        for name, value in starts.items():
            weight = self.add_weight(
                name=name,
                shape=(),
                initializer=keras.initializers.Constant(value),
                constraint=bounds[name],
                dtype="float32",
                autocast=False,
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, features):
        # The epsilon is for the gradient of features that are all zero.
        return routing.unit(ops.cast(features, "float32"), -1, epsilon=1e-12)

    @property
    def logit_scale(self):
        """exp(s), a float32 scalar."""
        return ops.exp(ops.convert_to_tensor(self.log_scale))

    @property
    def logit_bias(self):
        """b, a float32 scalar."""
        return ops.convert_to_tensor(self.bias)

    def logits(self, image_embeddings, text_embeddings):
        """(images, texts), logits of all pairs of two lists of embeddings."""
        products = ops.matmul(image_embeddings, ops.transpose(text_embeddings))
        return self.logit_scale * products + self.logit_bias

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, features):
        return keras.KerasTensor(features.shape, dtype="float32")

    def get_config(self):
        config = super().get_config()
        config.update(
            initial_logit_scale=self.initial_logit_scale,
            initial_logit_bias=self.initial_logit_bias,
            max_logit_scale=self.max_logit_scale,
        )
        return config

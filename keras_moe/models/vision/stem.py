"""Convolutions that read an image before it is cut into patches."""

import keras

from keras_moe import activations
from keras_moe import policies


@keras.saving.register_keras_serializable(package="keras_moe")
class ConvolutionalStem(keras.layers.Layer):
    """Halves an image (B,H,W,C) once for each of its convolutions.

    Each is a 3×3 convolution of stride 2 without bias, then a LayerNorm over
    the channels of each place, and the activation (arXiv 2106.14881, with
    LayerNorm where that has BatchNorm: an image's output does not depend on
    the other images).

    Args:
        dims: channels of each convolution.
        activation: activation of the channels.
        epsilon: epsilon of the norms.
    """

    def __init__(self, dims, activation="gelu_tanh", epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        self.activation = activations.get(activation)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.convolutions, self.norms = [], []
        shape = tuple(input_shape)
        for index, channels in enumerate(self.dims):
            convolution = keras.layers.Conv2D(
                channels,
                3,
                strides=2,
                padding="same",
                use_bias=False,
                data_format="channels_last",
                kernel_initializer="he_normal",
                dtype=policies.within(self, f"convolution_{index}"),
                name=f"convolution_{index}",
            )
            norm = keras.layers.LayerNormalization(
                epsilon=self.epsilon,
                dtype=self.dtype_policy,
                name=f"norm_{index}",
            )
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)
            self.convolutions.append(convolution)
            self.norms.append(norm)
        self.built = True

    def call(self, images):
        activation = activations.exportable(self.activation)
        for convolution, norm in zip(self.convolutions, self.norms):
            images = activation(norm(convolution(images)))
        return images

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        halves = 2 ** len(self.dims)
        sides = (
            None if n is None else -(-n // halves) for n in (height, width)
        )
        return batch, *sides, self.dims[-1]

    def get_config(self):
        config = super().get_config()
        config.update(
            dims=self.dims,
            activation=activations.serialize(self.activation),
            epsilon=self.epsilon,
        )
        return config

"""The MLP of a transformer block."""

import keras

from keras_moe import activations
from keras_moe import policies


@keras.saving.register_keras_serializable(package="keras_moe")
class FeedForward(keras.layers.Layer):
    """Maps each token by itself: down(activation(up(x))).

    Args:
        intermediate_dim: hidden features.
        activation: activation of the hidden features.
        dropout: rate of dropout on the hidden features, in training.
    """

    def __init__(
        self, intermediate_dim, activation="gelu_tanh", dropout=0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activations.get(activation)
        self.dropout = dropout

    def build(self, input_shape):
        features = input_shape[-1]
        self.up = keras.layers.Dense(
            self.intermediate_dim,
            dtype=policies.within(self, "up"),
            name="up",
        )
        self.up.build(input_shape)
        self.hidden_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="hidden_dropout"
        )
        self.down = keras.layers.Dense(
            features, dtype=policies.within(self, "down"), name="down"
        )
        self.down.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, tokens, training=None):
        activation = activations.exportable(self.activation)
        hidden = activation(self.up(tokens))
        hidden = self.hidden_dropout(hidden, training=training)
        return self.down(hidden)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            intermediate_dim=self.intermediate_dim,
            activation=activations.serialize(self.activation),
            dropout=self.dropout,
        )
        return config

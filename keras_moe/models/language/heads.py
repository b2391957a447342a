"""The head of `MoTMaskedLM`."""

import keras
import keras_hub

from keras_moe import policies


# Files of weights name a layer by its class: this keeps KerasHub's name.
@keras.saving.register_keras_serializable(package="keras_moe")
class MaskedLMHead(keras_hub.layers.MaskedLMHead):
    """KerasHub's layer, whose dense layer has a policy of its own.

    Scores of the vocabulary at `mask_positions`, by the transpose of
    `token_embedding`, which must be given. Keras cannot save a quantised
    `Dense` again that was made with a map of policies.
    """

    def build(self, inputs_shape, mask_positions_shape=None):
        features = self.token_embedding.output_dim
        self._intermediate_dense = keras.layers.Dense(
            features,
            activation=self.intermediate_activation,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=policies.within(self, "intermediate_dense"),
            name="intermediate_dense",
        )
        self._intermediate_dense.build((None, None, inputs_shape[-1]))
        self._intermediate_layer_norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon,
            dtype=self.dtype_policy,
            name="intermediate_layer_norm",
        )
        self._intermediate_layer_norm.build((None, None, features))
        self._bias = self.add_weight(
            name="output_bias",
            shape=(self.vocabulary_size,),
            initializer=self.bias_initializer,
            dtype=self.dtype,
        )
        self.built = True

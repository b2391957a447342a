"""A wrapper that computes a layer's activations again for gradients."""

import inspect

import keras

from keras_moe import checks
from keras_moe import recomputation


@keras.saving.register_keras_serializable(package="keras_moe")
class Recompute(keras.layers.Wrapper):
    """Computes a layer again in the backward pass instead of keeping it.

    output = layer(inputs), and so are its losses, its gradients and what it
    moves: seeds of noise and dropout, thresholds, balance biases. In training
    the forward pass keeps the inputs alone, of all that the layer computes.
    The backward pass calls the layer a second time, with the same seeds and
    so with the same routing plan. It takes the time of one more forward pass.
    Outside of training the layer is called as it is.

    Wrap a layer that keeps much between few inputs and outputs: a block of a
    transformer, or a mixture of experts. `MoEViTBackbone` and `MoTBackbone` do
    so for their blocks with `recompute=True`.

    Inside of `keras_moe.diagnostics.capture()`, which reads the plan, nothing
    is recomputed.

    Args:
        layer: any Keras layer whose `build` makes all its variables. One that
            is built from the shapes of several inputs must be built already.
        name: the wrapper's name.
        trainable: whether the layer is trained.

    Call arguments: those of the layer.

    Outputs: tensors, plain values of Python (`None`, numbers, strings), arrays
        of numpy, or structures of these. Plain values are those of the first
        call.

    Input shape, output shape and dtype: those of the layer. A mask is passed
        to it, and its `compute_mask` has the mask of the outputs. Masks of
        several inputs must be given by name, as Keras passes one alone.

    Weights: those of the layer.

    Raises:
        ValueError: for an argument that is no layer; in training, for a layer
            whose call makes variables, assigns those of others, or returns
            objects of other kinds.

    Reference: [Training Deep Nets with Sublinear Memory Cost](
        https://arxiv.org/abs/1604.06174).

    Example:

    >>> import keras, keras_moe
    >>> moe = keras_moe.layers.SoftMoE(4, 2, intermediate_dim=64)
    >>> layer = keras_moe.layers.Recompute(moe)
    >>> outputs = layer(keras.random.normal((2, 16, 32)), training=True)
    >>> tuple(outputs.shape)
    (2, 16, 32)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        name: str | None = None,
        trainable: bool = True,
    ):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"layer must be a Keras layer; {checks.received(layer)}."
            )
        super().__init__(
            layer,
            name=name if name is None else checks.name("name", name),
            trainable=checks.flag("trainable", trainable),
            dtype=layer.dtype_policy,
            # The layer casts its inputs and variables itself, in both runs.
            autocast=False,
        )
        self.supports_masking = layer.supports_masking
        self._takes_mask = "mask" in inspect.signature(layer.call).parameters

    def call(self, inputs, *args, mask=None, training=None, **kwargs):
        if self._takes_mask:
            kwargs["mask"] = mask
        if not training:
            return self.layer(inputs, *args, **kwargs)
        return recomputation.call(
            self, self.layer, inputs, *args, training=True, **kwargs
        )

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_spec(self, inputs, *args, mask=None, **kwargs):
        inferred = keras.layers.Layer.compute_output_shape
        if type(self.layer).compute_output_shape is inferred:
            # Not by this wrapper's shapes, which are the layer's.
            return super(keras.layers.Layer, self).compute_output_spec(
                inputs, *args, mask=mask, **kwargs
            )
        return self.layer.compute_output_spec(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        config = super().get_config()
        del config["dtype"]  # the layer's
        return config

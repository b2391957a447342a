"""Mixture of Depths: a router picks the tokens that pass a layer."""

import inspect

import keras
from keras import ops

from keras_moe import checks
from keras_moe import diagnostics
from keras_moe import indexing
from keras_moe import passing
from keras_moe.layers.base import check_tokens
from keras_moe.layers.depth_router import INFERENCE
from keras_moe.layers.depth_router import DepthRouter
from keras_moe.layers.inputs import check_mask
from keras_moe.layers.inputs import check_places
from keras_moe.layers.recompute import Recompute
from keras_moe.plans import HardPlan
from keras_moe.scalars import keep

# Names of the argument that takes the mask of a layer's tokens.
MASKS = ("padding_mask", "decoder_padding_mask", "mask")


@keras.saving.register_keras_serializable(package="keras_moe")
class MixtureOfDepths(DepthRouter, keras.layers.Wrapper):
    """Lets a share of a sequence's tokens pass a layer; the others skip it.

    With X (T,D) the tokens of one sequence and k = capacity · T:

        scores = X · router_kernel                                   (T,)
        the k tokens of the largest scores are chosen, C (k,D) in order
        output[t] = X[t] + scores[t] · f(C)[t]    where t is chosen
        output[t] = X[t]                          elsewhere

    With `residual`, the default, f(C) is `layer(C) - C`, for a block that adds
    its input itself; without it, f(C) is `layer(C)`. The layer is called on
    the k chosen tokens, so its attention is over these alone. If its `call`
    has an argument `places`, it receives the positions (B,k) of the tokens.
    If it has `padding_mask`, `decoder_padding_mask` or `mask`, that receives a
    Boolean (B,k), `False` where a row holds no chosen token.

    Whether a token is among the k largest depends on later tokens. For causal
    models `inference` names a rule that decides for each token by itself
    outside of training. `"predictor"` is a small network that learns in
    training which tokens are chosen. `"threshold"` compares a token's score
    with a moving average of the score that k of T tokens exceed.

    Args:
        layer: maps (batch, tokens, features) to the same shape.
        capacity: share of a sequence's tokens that pass; k is rounded, halves
            to even, and at least 1.
        residual: whether `layer` adds its input to what it computes.
        inference: outside of training, `"top_k"` (as in training),
            `"predictor"` or `"threshold"`.
        inference_capacity: share of a sequence's tokens that the layer
            computes with `"predictor"` and `"threshold"` outside of training.
            If more are chosen, only the first ones pass: how many depends on
            the length, padding too. 1 drops none and saves no computation.
        predictor_dim: hidden features of the predictor; `None` is half of D.
        predictor_loss: weight of the predictor's loss, the mean binary
            cross-entropy, added through `add_loss` in training. Its gradient
            reaches the predictor alone.
        threshold_momentum: as in `ExpertChoiceMoE`.
        router_initializer: initialiser of `router_kernel`.
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32.
        trainable: whether the weights are trained.

    Call arguments: `inputs`, `mask`, `places` ((batch, tokens), positions of
        the tokens; by default, their row numbers) and `training`.

    Input shape: (batch, tokens, features), where batch and, except on JAX,
        tokens may be unknown. Output shape and dtype: those of the inputs.

    Mask: Boolean (batch, tokens). A `False` token never passes the layer, and
        its output is its input. k counts masked tokens as tokens.

    Weights: `router_kernel` (D,1); `threshold` (1,), not trained, or
        `predictor_hidden` and `predictor_output`, in float32; the layer's own.

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [Mixture-of-Depths](https://arxiv.org/abs/2404.02258), equation
        1, and section 3.5 for the predictor. Thresholds are those of [Expert
        Threshold routing](https://arxiv.org/abs/2603.11535), with one expert.
        Not from the papers: `inference_capacity`, and that the threshold is
        of (1 + s / (1 + |s|)) / 2, a number from 0 to 1, for a score s.

    Example:

    >>> import keras, keras_moe
    >>> dense = keras.layers.Dense(32, activation="relu")
    >>> layer = keras_moe.layers.MixtureOfDepths(
    ...     dense, capacity=0.25, residual=False)
    >>> inputs = keras.random.normal((2, 16, 32))
    >>> changed = keras.ops.any(layer(inputs) != inputs, axis=-1)
    >>> bool(keras.ops.all(keras.ops.sum(keras.ops.cast(
    ...     changed, "int32"), axis=-1) <= 4))
    True
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        capacity: float = 0.125,
        *,
        residual: bool = True,
        inference: str = "top_k",
        inference_capacity: float = 1.0,
        predictor_dim: int | None = None,
        predictor_loss: float = 0.01,
        threshold_momentum: float = 0.99,
        router_initializer="lecun_normal",
        name: str | None = None,
        dtype=None,
        trainable: bool = True,
    ):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "layer must be a Keras layer that maps (batch, tokens, "
                f"features) to the same shape; {checks.received(layer)}."
            )
        super().__init__(
            layer,
            name=name if name is None else checks.name("name", name),
            dtype=checks.resolve(
                "dtype", keras.dtype_policies.get, dtype, "a Keras dtype"
            ),
            trainable=checks.flag("trainable", trainable),
        )
        self.supports_masking = True
        self.capacity = _share("capacity", capacity)
        self.residual = checks.flag("residual", residual)
        self.inference = checks.choice("inference", inference, INFERENCE)
        self.inference_capacity = _share(
            "inference_capacity", inference_capacity
        )
        self.predictor_dim = checks.optional_integer(
            "predictor_dim", predictor_dim
        )
        self.predictor_loss = checks.real(
            "predictor_loss", predictor_loss, exclusive=True
        )
        self.threshold_momentum = checks.rate(
            "threshold_momentum", threshold_momentum
        )
        self.router_initializer = checks.resolve(
            "router_initializer",
            keras.initializers.get,
            router_initializer,
            "a Keras initialiser",
        )
        self._call_names = _argument_names(layer)

    # === Weights ===

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                "inputs of MixtureOfDepths must have three axes, (batch, "
                "tokens, features), and a known number of features; received "
                f"shape {tuple(input_shape)}."
            )
        batch, _, features = input_shape
        self.build_router(features)
        super().build((batch, None, features))
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: features})

    # === The path ===

    def call(self, inputs, mask=None, places=None, training=None):
        check_tokens(inputs)
        tokens = inputs
        if mask is not None:  # what is masked may hold anything, NaN too
            mask = check_mask(mask, inputs)
            tokens = keep(mask[:, :, None], inputs)
        if places is not None:
            places = check_places(places, inputs)
        if training or self.inference == "top_k":
            scores, choice = self.scores(tokens), mask
            rows = passing.largest(scores, self.capacity, mask)  # (B,k)
            if training and self.trainable:
                self.learn(tokens, scores, rows, mask)
        else:
            scores, choice = self.choose(tokens, mask)
            rows = passing.first(choice, self.inference_capacity)
        gate = ops.take_along_axis(scores, rows, axis=1)
        row_mask = None
        if choice is not None:
            row_mask = ops.take_along_axis(choice, rows, axis=1)
            gate = keep(row_mask, gate)
        length = ops.shape(inputs)[1]
        if diagnostics.open_blocks:
            plan = HardPlan(rows[:, None], gate[:, None], length, mask)
            diagnostics.record(self, plan)
        chosen = indexing.take(tokens, rows)  # (B,k,D)
        options = self._options(rows, row_mask, places, training)
        outputs = self.layer(chosen, **options)
        update = self.update(chosen, outputs, gate, row_mask)
        return inputs + indexing.add(update, rows, length)

    def update(self, tokens, outputs, scores, mask=None):
        """Compute what tokens that pass gain: scores · f(tokens), (B,k,D).

        Args:
            tokens: (B,k,D) that the layer was called on.
            outputs: (B,k,D) from the layer.
            scores: (B,k).
            mask: `None` or Boolean (B,k). `False` rows are zero.
        """
        shape = tuple(getattr(outputs, "shape", ()))
        if len(shape) != 3 or shape[-1] != tokens.shape[-1]:
            raise ValueError(
                "layer must map (batch, tokens, features) to the same shape; "
                f"received a layer that makes {shape} of "
                f"{tuple(tokens.shape)}."
            )
        update = ops.subtract(outputs, tokens) if self.residual else outputs
        # A layer may have a dtype of its own.
        update = ops.cast(update, tokens.dtype)
        update = update * ops.cast(scores, update.dtype)[:, :, None]
        return update if mask is None else keep(mask[:, :, None], update)

    def _options(self, rows, row_mask, places, training):
        """Arguments of the layer's call beside the tokens."""
        options = {}
        if "training" in self._call_names:
            options["training"] = training
        for name in MASKS:
            if name in self._call_names and row_mask is not None:
                options[name] = row_mask
                break
        if "places" in self._call_names:
            options["places"] = rows
            if places is not None:
                shape = (ops.shape(rows)[0], ops.shape(places)[1])
                options["places"] = ops.take_along_axis(
                    ops.broadcast_to(places, shape), rows, axis=1
                )
        return options

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        config = super().get_config()
        config.update(
            capacity=self.capacity,
            residual=self.residual,
            inference=self.inference,
            inference_capacity=self.inference_capacity,
            predictor_dim=self.predictor_dim,
            predictor_loss=self.predictor_loss,
            threshold_momentum=self.threshold_momentum,
            router_initializer=keras.initializers.serialize(
                self.router_initializer
            ),
        )
        return config


def _argument_names(layer):
    """Names of the arguments of a layer's call; `Recompute` passes them on."""
    while isinstance(layer, Recompute):
        layer = layer.layer
    return tuple(inspect.signature(layer.call).parameters)


def _share(name, value):
    """A number above 0 and at most 1."""
    value = checks.real(name, value, exclusive=True)
    if value > 1:
        raise ValueError(f"{name} must be at most 1; received {value!r}.")
    return value

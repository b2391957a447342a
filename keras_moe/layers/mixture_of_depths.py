"""Mixture of Depths: a router picks the tokens that pass a layer."""

import inspect

import keras
from keras import ops

from keras_moe import checks
from keras_moe import indexing
from keras_moe import routing
from keras_moe.layers.base import check_tokens
from keras_moe.layers.inputs import check_mask
from keras_moe.layers.inputs import check_places
from keras_moe.processes import joint_batch
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep

# Names of the argument that takes the mask of a layer's tokens.
MASKS = ("padding_mask", "decoder_padding_mask", "mask")
INFERENCE = ("top_k", "predictor", "threshold")


@keras.saving.register_keras_serializable(package="keras_moe")
class MixtureOfDepths(keras.layers.Wrapper):
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
            If more are chosen, only the first ones pass. 1 drops none and
            saves no computation.
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

    joint = None  # between processes: `torch_processes.Joint`

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
        self._call_names = tuple(inspect.signature(layer.call).parameters)

    # === Weights ===

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                "inputs of MixtureOfDepths must have three axes, (batch, "
                "tokens, features), and a known number of features; received "
                f"shape {tuple(input_shape)}."
            )
        batch, _, features = input_shape
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        options = {"dtype": wide, "autocast": False}
        self.router_kernel = self.add_weight(
            name="router_kernel",
            shape=(features, 1),
            initializer=self.router_initializer,
            **options,
        )
        if self.inference == "threshold":
            self.threshold = self.add_weight(
                name="threshold",
                shape=(1,),
                initializer="zeros",
                trainable=False,
                aggregation="mean",
                **options,
            )
        if self.inference == "predictor":
            hidden = self.predictor_dim or max(features // 2, 1)
            self.predictor_hidden = keras.layers.Dense(
                hidden, "silu", dtype=wide, name="predictor_hidden"
            )
            self.predictor_output = keras.layers.Dense(
                1, dtype=wide, name="predictor_output"
            )
            self.predictor_hidden.build((batch, None, features))
            self.predictor_output.build((batch, None, hidden))
        super().build((batch, None, features))
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: features})

    def batch_states(self) -> list:
        """List the variables that a call in training moves by its batch."""
        return [self.threshold] if self.inference == "threshold" else []

    # === The path ===

    def call(self, inputs, mask=None, places=None, training=None):
        check_tokens(inputs)
        tokens = inputs
        if mask is not None:  # what is masked may hold anything, NaN too
            mask = check_mask(mask, inputs)
            tokens = keep(mask[:, :, None], inputs)
        if places is not None:
            places = check_places(places, inputs)
        wide = ops.cast(tokens, self.router_kernel.dtype)
        scores = ops.matmul(wide, self.router_kernel)[:, :, 0]  # (B,T)
        if training or self.inference == "top_k":
            rows = self._largest(scores, mask)  # (B,k)
            choice = mask
            if training and self.trainable:
                self._learn(wide, scores, rows, mask)
        else:
            choice = self._alone(wide, scores)
            if mask is not None:
                choice = ops.logical_and(choice, mask)
            rows = self._first(choice)
        row_mask = None
        if choice is not None:
            row_mask = ops.take_along_axis(choice, rows, axis=1)
        passing = indexing.take(tokens, rows)  # (B,k,D)
        update = self._update(passing, rows, row_mask, places, training)
        gate = ops.take_along_axis(scores, rows, axis=1)
        update = update * ops.cast(gate, update.dtype)[:, :, None]
        if row_mask is not None:
            update = keep(row_mask[:, :, None], update)
        return inputs + indexing.add(update, rows, ops.shape(inputs)[1])

    def _largest(self, scores, mask):
        """Rows of the k largest scores, in the order of the sequence."""
        if mask is not None:
            scores = keep(mask, scores, MASKED)
        number = self._number(scores, self.capacity)
        rows = routing.descending(ops.stop_gradient(scores))[:, :number]
        return ops.sort(ops.cast(rows, "int32"), axis=-1)

    def _first(self, choice):
        """Rows of the first chosen tokens, and then of others."""
        length = ops.shape(choice)[1]
        order = ops.arange(0, length, dtype="int32")
        order = order + ops.cast(ops.logical_not(choice), "int32") * length
        number = self._number(choice, self.inference_capacity)
        return ops.cast(routing.ascending(order)[:, :number], "int32")

    def _number(self, scores, share):
        length = ops.shape(scores)[1]
        return routing.expert_capacity(length, 1, share, rounding="round")

    def _alone(self, tokens, scores):
        """Choose the tokens that pass, each by itself: Boolean (B,T)."""
        if self.inference == "threshold":
            return _levels(scores) > self.threshold
        return self._predicted(tokens) > 0

    def _predicted(self, tokens):
        """The predictor's logits (B,T)."""
        hidden = self.predictor_hidden(ops.stop_gradient(tokens))
        return self.predictor_output(hidden)[:, :, 0]

    def _learn(self, tokens, scores, rows, mask):
        """Move the threshold, or add the predictor's loss."""
        if self.inference == "threshold":
            levels, mask = joint_batch(self, _levels(scores), mask)
            self.threshold.assign(
                routing.moved_thresholds(
                    ops.convert_to_tensor(self.threshold),
                    levels[:, :, None],
                    self.capacity,
                    self.threshold_momentum,
                    mask,
                )
            )
        if self.inference == "predictor":
            logits = self._predicted(tokens)
            ones = ops.ones_like(rows, dtype=logits.dtype)[:, :, None]
            target = indexing.add(ones, rows, ops.shape(scores)[1])[:, :, 0]
            losses = ops.softplus(logits) - target * logits
            weights = ops.ones_like(losses)
            if mask is not None:
                weights = ops.cast(mask, losses.dtype)
            count = ops.sum(weights)
            count = count + ops.cast(count == 0, count.dtype)
            mean = ops.sum(losses * weights) / count
            self.add_loss(self.predictor_loss * mean)

    def _update(self, passing, rows, row_mask, places, training):
        """Compute f of the chosen tokens, (B,k,D), in the dtype of inputs."""
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
        outputs = self.layer(passing, **options)
        shape = tuple(getattr(outputs, "shape", ()))
        if len(shape) != 3 or shape[-1] != passing.shape[-1]:
            raise ValueError(
                "layer must map (batch, tokens, features) to the same shape; "
                f"received a layer that makes {shape} of "
                f"{tuple(passing.shape)}."
            )
        # A layer may have a dtype of its own.
        update = ops.subtract(outputs, passing) if self.residual else outputs
        return ops.cast(update, passing.dtype)

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


def _levels(scores):
    """Map scores to (0, 1), in their order.

    (1 + s / (1 + |s|)) / 2; not the sigmoid, which is 1 for scores above 17.
    """
    return 0.5 + 0.5 * scores / (1.0 + ops.abs(scores))


def _share(name, value):
    """A number above 0 and at most 1."""
    value = checks.real(name, value, exclusive=True)
    if value > 1:
        raise ValueError(f"{name} must be at most 1; received {value!r}.")
    return value

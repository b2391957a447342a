"""Mixture of Depths: a router picks the tokens that pass a layer."""

import inspect

import keras
from keras import ops

from keras_moe import checks
from keras_moe import indexing
from keras_moe import routing
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep

INFERENCE = ("top_k", "predictor", "threshold")


@keras.saving.register_keras_serializable(package="keras_moe")
class MixtureOfDepths(keras.layers.Wrapper):
    """Lets a share of a sequence's tokens pass a layer; the others skip it.

    With X (T,D) the tokens of one sequence and k = capacity · T:

        scores = X · router_kernel                                   (T,)
        the k tokens of the largest scores are chosen, C (k,D) in order
        output[t] = X[t] + scores[t] · f(C)[t]    where t is chosen
        output[t] = X[t]                          elsewhere

    f(C) is `layer(C) - C` with `residual`, the default, for a block that adds
    its input itself, and `layer(C)` without. Attention in the layer is over the
    chosen tokens alone: the layer is called on k tokens, with the arguments
    that its `call` has of `places` (B,k), the positions of the tokens, and
    `padding_mask` or `mask` (B,k), which of them are chosen.

    Whether a token is among the k largest depends on later tokens. For causal
    models `inference` says how to choose outside of training, each token by
    itself: `"predictor"`, a small network that learns in training to tell the
    chosen tokens, or `"threshold"`, by a moving average of the score that
    k of T tokens exceed.

    Args:
        layer: maps (batch, tokens, features) to the same shape.
        capacity: share of a sequence's tokens that pass; k is rounded, halves
            to even, and at least 1.
        residual: whether `layer` adds its input to what it computes.
        inference: outside of training, `"top_k"` (as in training),
            `"predictor"` or `"threshold"`.
        inference_capacity: share of a sequence's tokens that the layer
            computes where each is chosen by itself: of more, the first ones
            pass. 1 drops none, and saves nothing.
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
        the tokens, by default their rows) and `training`.

    Input shape: (batch, tokens, features), where batch and, except on JAX,
        tokens may be unknown. Output shape: the same.

    Mask: Boolean (batch, tokens). A `False` token never passes the layer, and
        its output is its input. k counts masked tokens as tokens.

    Weights: `router_kernel` (D,1); `threshold` (1,), not trained, or
        `predictor_hidden` and `predictor_output`, in float32; the layer's own.

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [Mixture-of-Depths](https://arxiv.org/abs/2404.02258), equation
        1, and section 3.5 for the predictor. Thresholds are those of [Expert
        Threshold routing](https://arxiv.org/abs/2603.11535), with one expert.
        Chosen here: `inference_capacity`, and that a threshold compares the
        sigmoid of scores.

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
        self._taken = tuple(inspect.signature(layer.call).parameters)

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

    # === The path ===

    def call(self, inputs, mask=None, places=None, training=None):
        tokens = inputs
        if mask is not None:  # what is masked may hold anything, NaN too
            mask = ops.cast(mask, "bool")
            tokens = keep(mask[:, :, None], inputs)
        wide = ops.cast(tokens, self.router_kernel.dtype)
        scores = ops.matmul(wide, self.router_kernel)[:, :, 0]  # (B,T)
        if training or self.inference == "top_k":
            rows = self._largest(scores, mask)  # (B,k)
            chosen = mask
            if training and self.trainable:
                self._learn(wide, scores, rows, mask)
        else:
            chosen = self._alone(wide, scores)
            if mask is not None:
                chosen = ops.logical_and(chosen, mask)
            rows = self._first(chosen)
        passing = indexing.take(tokens, rows)  # (B,k,D)
        known = None
        if chosen is not None:
            known = ops.take_along_axis(chosen, rows, axis=1)
        made = self._made(passing, rows, known, places, training)
        gate = ops.take_along_axis(scores, rows, axis=1)
        made = made * ops.cast(gate, made.dtype)[:, :, None]
        if known is not None:
            made = keep(known[:, :, None], made)
        return inputs + indexing.add(made, rows, ops.shape(inputs)[1])

    def _largest(self, scores, mask):
        """Rows of the k largest scores, in the order of the sequence."""
        if mask is not None:
            scores = keep(mask, scores, MASKED)
        number = self._number(scores, self.capacity)
        rows = routing.descending(ops.stop_gradient(scores))[:, :number]
        return ops.sort(ops.cast(rows, "int32"), axis=-1)

    def _first(self, chosen):
        """Rows of the first chosen tokens, and then of others."""
        length = ops.shape(chosen)[1]
        order = ops.arange(0, length, dtype="int32")
        order = order + ops.cast(ops.logical_not(chosen), "int32") * length
        number = self._number(chosen, self.inference_capacity)
        return ops.cast(routing.ascending(order)[:, :number], "int32")

    def _number(self, scores, share):
        length = ops.shape(scores)[1]
        return routing.expert_capacity(length, 1, share, rounding="round")

    def _alone(self, tokens, scores):
        """Choose the tokens that pass, each by itself: Boolean (B,T)."""
        if self.inference == "threshold":
            return ops.sigmoid(scores) > self.threshold
        return self._predicted(tokens) > 0

    def _predicted(self, tokens):
        """The predictor's logits (B,T)."""
        hidden = self.predictor_hidden(ops.stop_gradient(tokens))
        return self.predictor_output(hidden)[:, :, 0]

    def _learn(self, tokens, scores, rows, mask):
        """Move the threshold, or add the predictor's loss."""
        if self.inference == "threshold":
            self.threshold.assign(
                routing.moved_thresholds(
                    ops.convert_to_tensor(self.threshold),
                    ops.sigmoid(scores)[:, :, None],
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
            seen = ops.ones_like(losses)
            if mask is not None:
                seen = ops.cast(mask, losses.dtype)
            count = ops.sum(seen)
            count = count + ops.cast(count == 0, count.dtype)
            mean = ops.sum(losses * seen) / count
            self.add_loss(self.predictor_loss * mean)

    def _made(self, passing, rows, known, places, training):
        """Compute what is added to the chosen tokens, (B,k,D)."""
        options = {}
        if "training" in self._taken:
            options["training"] = training
        for name in ("padding_mask", "mask"):
            if name in self._taken and known is not None:
                options[name] = known
                break
        if "places" in self._taken:
            if places is not None:
                rows = ops.take_along_axis(
                    ops.broadcast_to(
                        places, (ops.shape(rows)[0], ops.shape(places)[-1])
                    ),
                    rows,
                    axis=1,
                )
            options["places"] = rows
        made = self.layer(passing, **options)
        return made - passing if self.residual else made

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


def _share(name, value):
    """A number above 0 and at most 1."""
    value = checks.real(name, value, exclusive=True)
    if value > 1:
        raise ValueError(f"{name} must be at most 1; received {value!r}.")
    return value

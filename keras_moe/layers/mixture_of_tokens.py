"""Mixture of Tokens: each expert reads one mixture of a group's tokens."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import grouping
from keras_moe import routing
from keras_moe.layers.base import MoELayer

MIXING = ("group", "self", "argmax", "discrete")


@keras.saving.register_keras_serializable(package="keras_moe")
class MixtureOfTokens(MoELayer):
    """Mixes each group of tokens into one token per expert, and spreads back.

    With X (T,D) the tokens of one group, T = `group_size`:

        weights = softmax over T of X · router_kernel / temperature    (T,E)
        mixed[e] = sum over t of weights[t,e] · X[t]                   (E,D)
        output[t] = sum over e of weights[t,e] · expert_e(mixed[e])    (T,D)

    **An example's output depends on its batch-mates.** With the default
    `group_axis="batch"`, the tokens at one position of `group_size`
    consecutive examples are mixed, in training and, with the default
    `inference_mixing="group"`, in inference too: the same example among other
    examples gives another output. `"self"` and `"argmax"` are independent of
    the batch. As groups never span positions, the layer suits causal models.

    Args:
        num_experts: E, the number of experts.
        group_size: T, tokens mixed together. At equal cost the experts
            together have `group_size` times the dense MLP's hidden features.
        temperature: temperature of the softmax; its start where it is learned.
        group_axis: `"batch"` groups the tokens at one position of consecutive
            examples; `"sequence"` groups consecutive tokens of one example
            (then later tokens of the group are read: not causal).
        emit_over_experts: whether the weights of what comes back are the
            softmax over the experts, instead of the weights of the mixing.
        learn_temperature: whether to learn a temperature per expert, one for
            mixing and one for what comes back.
        inference_mixing: what happens outside training. `"group"` mixes as
            in training. `"self"` gives each token a group of copies of
            itself: every expert reads every token, which is `group_size`
            times the work. `"argmax"` sends each token, with weight 1, to
            the expert of its largest logit (computed like `"self"`).
            `"discrete"` keeps of each softmax of `"group"` only the largest
            weight, as 1: each expert reads one token of the group, or, where
            several weights are equally large, all of those.
        padding: how a last group that is short is completed. `"mask"` gives
            missing tokens no weight. `"zeros"` appends zero vectors, which
            take their part of the softmax, as the published model does.
        intermediate_dim: F, hidden features of each expert's MLP. Exactly one
            of `intermediate_dim` and `expert` is given.
        expert: a layer that maps (batch, tokens, features) to the same shape.
            Each expert is a fresh clone of it, made from its config (weights
            are not copied, its dtype is kept), and the clones run one after
            another: more general and slower.
        activation: activation of the hidden features, any of Keras or
            `"gelu_tanh"`, the tanh form that the vmoe codes use.
        gated: whether each expert is `down(activation(gate(x)) * up(x))`
            instead of `down(activation(up(x)))`.
        use_bias: whether the experts' projections have biases.
        dropout: rate of dropout on the experts' hidden features, in training.
        kernel_initializer: initialiser of the experts' kernels, drawn for each
            expert separately; `keras_moe.initializers.PerExpert(…,
            identical=True)` starts all experts equal.
        bias_initializer: initialiser of the experts' biases.
        router_initializer: initialiser of the router's weights.
        kernel_regularizer: regulariser of the experts' kernels.
        bias_regularizer: regulariser of the experts' biases.
        kernel_constraint: constraint on the experts' kernels.
        bias_constraint: constraint on the experts' biases.
        implementation: `"auto"` or the name of one way to dispatch and
            combine: `"reference"`, the plain formulas; `"streaming"`, which
            holds no array (tokens x experts) and serves `emit_over_experts`
            alone; `"logsumexp"`, which serves it too, at temperature 1. The
            others of soft plans raise an error.
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32
            whatever the policy, the experts in the compute dtype.
        trainable: whether the weights are trained.

    Input shape: (batch, tokens, features), or more token axes, such as
        (batch, height, width, features). Batch and tokens may be unknown
        (`None`) when the layer is built. Output shape: the same.

    Mask: Boolean, the inputs' shape without features. A `False` token is
        mixed into nothing and its output is zero.

    Weights: `router_kernel` (D,E) and, if `learn_temperature`,
        `merge_temperature` and `emit_temperature` (E,), in float32;
        `experts/up`, `experts/gate` if `gated`, `experts/down`, each `kernel`
        (E, inputs, outputs) and `bias` (E,1,outputs).

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [Mixture of Tokens](https://arxiv.org/abs/2310.15961),
        llm-random's research/conditional/moe_layers/continuous_moe.py. Its
        experts have no biases and a ReLU.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.MixtureOfTokens(
    ...     num_experts=8, group_size=4, intermediate_dim=64,
    ...     activation="relu", use_bias=False)
    >>> outputs = layer(keras.random.normal((8, 10, 32)))
    >>> tuple(outputs.shape)
    (8, 10, 32)
    """

    def __init__(
        self,
        num_experts: int,
        group_size: int,
        *,
        temperature: float = 1.0,
        group_axis: str = "batch",
        emit_over_experts: bool = False,
        learn_temperature: bool = False,
        inference_mixing: str = "group",
        padding: str = "mask",
        intermediate_dim: int | None = None,
        expert: keras.layers.Layer | None = None,
        activation="gelu",
        gated: bool = False,
        use_bias: bool = True,
        dropout: float = 0.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        router_initializer="lecun_normal",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        implementation: str = "auto",
        name: str | None = None,
        dtype=None,
        trainable: bool = True,
    ):
        super().__init__(
            num_experts,
            intermediate_dim=intermediate_dim,
            expert=expert,
            activation=activation,
            gated=gated,
            use_bias=use_bias,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            router_initializer=router_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            implementation=implementation,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.group_size = checks.integer("group_size", group_size)
        self.temperature = checks.real(
            "temperature", temperature, exclusive=True
        )
        self.group_axis = checks.choice(
            "group_axis", group_axis, ("batch", "sequence")
        )
        self.emit_over_experts = checks.flag(
            "emit_over_experts", emit_over_experts
        )
        self.learn_temperature = checks.flag(
            "learn_temperature", learn_temperature
        )
        self.inference_mixing = checks.choice(
            "inference_mixing", inference_mixing, MIXING
        )
        self.padding = checks.choice("padding", padding, ("mask", "zeros"))

    plan_kind = "soft"

    def build_router(self, features):
        self.router_kernel = self.add_router_weight(
            "router_kernel",
            (features, self.num_experts),
            self.router_initializer,
        )
        self.merge_temperature = self.emit_temperature = None
        if self.learn_temperature:
            start = keras.initializers.Constant(self.temperature)
            shape = (self.num_experts,)
            self.merge_temperature = self.add_router_weight(
                "merge_temperature", shape, start
            )
            self.emit_temperature = self.add_router_weight(
                "emit_temperature", shape, start
            )

    def mixing(self, training):
        """The value of `inference_mixing` that holds for this call."""
        return "group" if training else self.inference_mixing

    def group(self, tokens, mask, training):
        if self.mixing(training) in ("self", "argmax"):
            return grouping.alone(tokens, mask)
        by_axis = {
            "batch": grouping.across_batch,
            "sequence": grouping.along_sequence,
        }[self.group_axis]
        return by_axis(tokens, mask, self.group_size, self.padding == "mask")

    def route(self, tokens, mask, training):
        mixing = self.mixing(training)
        if mixing == "argmax":
            return routing.best_expert(self.logits(tokens), mask)
        merge, emit = self.temperature, None
        if self.learn_temperature:
            merge = ops.convert_to_tensor(self.merge_temperature)
            emit = ops.convert_to_tensor(self.emit_temperature)
        return routing.mixture_of_tokens(
            ops.cast(tokens, self.router_dtype),
            ops.convert_to_tensor(self.router_kernel),
            merge_temperature=merge,
            emit_temperature=emit,
            emit_over_experts=self.emit_over_experts,
            mask=mask,
            copies=self.group_size if mixing == "self" else 1,
            discrete=mixing == "discrete",
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            group_size=self.group_size,
            temperature=self.temperature,
            group_axis=self.group_axis,
            emit_over_experts=self.emit_over_experts,
            learn_temperature=self.learn_temperature,
            inference_mixing=self.inference_mixing,
            padding=self.padding,
        )
        return config

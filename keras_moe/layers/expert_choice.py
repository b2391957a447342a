"""Expert Choice: each expert takes the tokens it values most."""

import keras

from keras_moe import checks
from keras_moe.layers.expert_router import SELECTIONS
from keras_moe.layers.expert_router import ExpertRouter


@keras.saving.register_keras_serializable(package="keras_moe")
class ExpertChoiceMoE(ExpertRouter):
    """Gives each token to the experts that choose it: none, one or many.

    With X (T,D) the tokens of one group and S the capacity:

        gates = softmax over E of (X · router_kernel)            (T,E)
        expert e takes the S tokens of the largest gates[:, e]
        output[t] = sum over the experts e that took t of
                    gates[t,e] · expert_e(X[t])                  (T,D)

    Every expert is full, so no auxiliary loss is needed; the output of a token
    that no expert takes is zero. The gates are not normalised again. Whether
    an expert takes a token depends on the later tokens of its group too, so
    the layer is not causal. A group of `group_size` tokens may span several
    sequences; then it depends on other examples of the batch.

    With `selection="threshold"` (Expert Threshold routing) each expert keeps a
    threshold instead, a moving average over the batches of training:

        expert e takes the tokens with gates[t,e] > thresholds[e]

    The experts of a token depend on no other token of a call, so the layer is
    causal and independent of the other examples, in training and after it. A
    call in training uses the thresholds from before the call. An expert takes
    T · capacity_factor / E tokens on average. In one batch it takes any number,
    up to all; no expert drops tokens. `"top_k_then_threshold"` uses top-k in
    training, and thresholds outside of it.

    Args:
        num_experts: E, the number of experts.
        capacity_factor: how many experts take a token on average;
            S = T · capacity_factor / E, rounded, at least 1 and at most T.
        group_size: T, tokens among which experts choose: runs of the whole
            batch's tokens; masked zeros complete the last one. `None` makes
            each sequence a group.
        max_experts_per_token: the most experts that may take one token
            (section 3.3 of the paper), or `None`. Where a short input cannot
            fill all slots, some stay empty. By thresholds, a token has the
            experts of its largest gates; this also bounds the arrays, whose
            rows are this, or E, times the tokens.
        noise_std: noise on the logits in training; its standard deviation is
            `noise_std / num_experts`.
        capacity_multiple_of: S is raised to a multiple of this.
        capacity_rounding: `"round"` (halves to even) or `"ceil"`.
        router_bias: whether the router has a bias.
        selection: `"top_k"`, `"threshold"` or `"top_k_then_threshold"`.
        threshold_momentum: m; each call in training moves the thresholds to
            m · thresholds + (1 - m) · quantile, where k = N · capacity_factor
            / E of the batch's N gates of an expert exceed its quantile. They
            start at 0, which every gate exceeds, and the first such call sets
            them to its quantile.
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
            combine: `"reference"` (one-hot products), `"gather"` (by index;
            `"top_k"` alone) or `"grouped"` (rows sorted by expert;
            `"threshold"` alone).
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32
            whatever the policy, the experts in the compute dtype.
        trainable: whether the weights are trained.

    Input shape: (batch, tokens, features), or more token axes, such as
        (batch, height, width, features). Batch and tokens may be unknown
        (`None`) when the layer is built. Output shape: the same.

    Mask: Boolean, the inputs' shape without features. A `False` token is
        never taken and its output is zero; slots left over stay empty. S
        counts masked tokens as tokens, quantiles do not.

    Weights: `router_kernel` (D,E) and, if `router_bias`, `router_bias` (E,),
        and with thresholds `thresholds` (E,), not trained, in float32;
        `experts/up`, `experts/gate` if `gated`, `experts/down`, each `kernel`
        (E, inputs, outputs) and `bias` (E,1,outputs).

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [Mixture-of-Experts with Expert Choice Routing](
        https://arxiv.org/abs/2202.09368), vmoe/nn/routing.py
        (NoisyTopItemsPerExpertRouter) and flaxformer's
        ExpertsChooseMaskedRouter, which may choose padding; this never does.
        [Expert Threshold routing](https://arxiv.org/abs/2603.11535): the rule
        and the moving average are the paper's. Its code compares logits,
        corrects the average for its start, and in training bounds the tokens
        of an expert; here gates are compared, as by `"top_k"`, and nothing
        depends on other tokens.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.ExpertChoiceMoE(
    ...     num_experts=8, capacity_factor=2.0, intermediate_dim=64)
    >>> outputs = layer(keras.random.normal((2, 16, 32)))
    >>> tuple(outputs.shape)
    (2, 16, 32)
    >>> causal = keras_moe.layers.ExpertChoiceMoE(
    ...     8, 2.0, selection="threshold", intermediate_dim=64)
    >>> tuple(causal(keras.random.normal((2, 16, 32)), training=True).shape)
    (2, 16, 32)
    """

    plan_kind = "hard"

    def __init__(
        self,
        num_experts: int,
        capacity_factor: float,
        *,
        group_size: int | None = None,
        max_experts_per_token: int | None = None,
        noise_std: float = 0.0,
        capacity_multiple_of: int = 1,
        capacity_rounding: str = "round",
        router_bias: bool = False,
        selection: str = "top_k",
        threshold_momentum: float = 0.99,
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
            plan_kind="grouped" if selection == "threshold" else "hard",
        )
        self.capacity_factor = checks.real(
            "capacity_factor", capacity_factor, exclusive=True
        )
        self.group_size = checks.optional_integer("group_size", group_size)
        self.max_experts_per_token = checks.optional_integer(
            "max_experts_per_token", max_experts_per_token
        )
        self.prepare_noise(noise_std)
        self.capacity_multiple_of = checks.integer(
            "capacity_multiple_of", capacity_multiple_of
        )
        self.capacity_rounding = checks.choice(
            "capacity_rounding", capacity_rounding, ("round", "ceil")
        )
        self.router_bias = checks.flag("router_bias", router_bias)
        self.selection = checks.choice("selection", selection, SELECTIONS)
        self.threshold_momentum = checks.rate(
            "threshold_momentum", threshold_momentum
        )
        self.check_selection()

    def get_config(self):
        config = super().get_config()
        config.update(
            capacity_factor=self.capacity_factor,
            group_size=self.group_size,
            max_experts_per_token=self.max_experts_per_token,
            noise_std=self.noise_std,
            capacity_multiple_of=self.capacity_multiple_of,
            capacity_rounding=self.capacity_rounding,
            router_bias=self.router_bias,
            selection=self.selection,
            threshold_momentum=self.threshold_momentum,
        )
        return config

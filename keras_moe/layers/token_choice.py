"""Token choice: each token chooses its experts, with a capacity or without."""

import keras

from keras_moe import checks
from keras_moe.layers.token_router import OPTIONS
from keras_moe.layers.token_router import TokenRouter


@keras.saving.register_keras_serializable(package="keras_moe")
class TokenChoiceMoE(TokenRouter):
    """Sends each token to the `top_k` experts of its highest scores.

    With X (T,D) the tokens of one group:

        scores = softmax over E of (X · router_kernel)            (T,E)
        output[t] = sum over the top_k experts e of token t of
                    scores[t,e] · expert_e(X[t])                  (T,D)

    With `capacity_factor=None` no token is dropped (Mixtral, Qwen-MoE, OLMoE,
    DeepSeek): the layer does `top_k` experts' work per token, and a token's
    output depends on that token alone, so that the layer suits causal models.
    Kernels of int8 and int4 are dequantised, and adapters (LoRA) multiplied,
    for chosen experts alone. Experts of another quantisation or given as
    `expert=` compute every token, E experts' work.

    With a number (V-MoE), each expert has S capacity slots. It takes first
    choices before second ones, and earlier tokens before later ones. A token
    whose expert is full is dropped by it: if all its experts are, its output
    is zero, and the residual branch around the layer carries it on. What is
    dropped depends on the other tokens of the group, and with a `group_size`
    above the length of a sequence on other examples.

    Auxiliary losses are added through `add_loss`, in training and in
    evaluation, each as its weight times the mean over groups (that of the
    z-loss over all tokens).

    Args:
        num_experts: E, the number of experts.
        top_k: k, how many experts a token chooses, at most E.
        capacity_factor: S = T · top_k · capacity_factor / E, rounded, at
            least 1 and at most T. `None` drops no token.
        normalize_gates: whether the gates of a token are divided by their
            sum (Mixtral, Qwen3-MoE, DeepSeek-V3).
        scoring: `"softmax"`; `"sigmoid"` (DeepSeek-V3), the sigmoid of each
            logit; or `"softmax_top_k"` (gpt-oss), the softmax over the chosen
            logits.
        router_bias: whether the router has a bias.
        routed_scaling: factor of the gates (DeepSeek-V3: 2.5).
        num_expert_groups: `None`, or the number of groups of consecutive
            experts, which divides E, for `top_groups`.
        top_groups: how many groups a token may choose from: those with the
            highest sums of their two best scores (DeepSeek-V3).
        balance_bias_rate: u; above 0, a bias per expert is added to the scores
            for the choice alone, and each call in training moves it by u
            towards equal loads, without an auxiliary loss (arXiv 2408.15664).
            With accumulated gradients these are several calls a step.
        shared_intermediate_dim: hidden features of one more expert, which all
            tokens pass; `None` for none. Its other arguments are those of the
            experts.
        shared_gate: whether the shared expert's output is multiplied by
            sigmoid(X · shared_gate) (Qwen-MoE).
        jitter: ε; in training the router sees each number of X times a random
            factor from 1 - ε to 1 + ε (Switch, arXiv 2101.03961).
        eval_capacity_factor: `capacity_factor` outside of training; `None` is
            the same.
        balance_over: whether `balance_loss` counts the `"first"` choice of
            each token (GShard, Switch) or `"all"` (Mixtral, Qwen).
        capacity_rounding: `"ceil"`, or `"round"`, which takes halves to even.
        capacity_multiple_of: S is raised to a multiple of this.
        batch_priority: whether tokens with larger best gates come first
            (batch priority routing), instead of the earlier ones.
        group_size: T, tokens that share the experts' capacity: runs of the
            whole batch's tokens; masked zeros complete the last one. `None`
            makes each sequence a group. Without a capacity groups matter to the
            losses alone, each of which is a mean over groups.
        noise_std: noise on the logits in training; its standard deviation is
            `noise_std / num_experts`.
        importance_loss: weight of `keras_moe.losses.importance_loss`.
        load_loss: weight of `keras_moe.losses.load_loss`, which exists only
            where there is noise, that is in training with `noise_std`.
        balance_loss: weight of `keras_moe.losses.balance_loss`.
        z_loss: weight of `keras_moe.losses.z_loss`.
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
            combine: `"reference"` (one-hot products), `"gather"` (by index,
            with a capacity) or `"grouped"` (rows sorted by expert, without).
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32
            whatever the policy, the experts in the compute dtype.
        trainable: whether the weights are trained.

    Input shape: (batch, tokens, features), or more token axes, such as
        (batch, height, width, features); with `capacity_factor=None` also
        (batch, features). Batch and tokens may be unknown (`None`) when the
        layer is built. Output shape: the same.

    Mask: Boolean, the inputs' shape without features. A `False` token chooses
        no expert, its output is zero and the losses do not see it. S counts
        masked tokens as tokens.

    Weights: `router_kernel` (D,E); with their arguments `router_bias` (E,),
        `balance_bias` (E,), not trained, and `shared_gate` (D,1), in float32;
        `experts/up`, `experts/gate` if `gated`, `experts/down`, each `kernel`
        (E, inputs, outputs) and `bias` (E,1,outputs); the same in
        `shared_expert`, with 1 for E.

    Raises:
        ValueError: for any argument or input that does not fit.

    References: [Scaling Vision with Sparse Mixture of Experts](
        https://arxiv.org/abs/2106.05974), vmoe/nn/routing.py
        (NoisyTopExpertsPerItemRouter), whose capacities are multiples of 4;
        without capacity [Mixtral](https://arxiv.org/abs/2401.04088), as
        KerasHub's `MixtralSparseMoeBlock` with `normalize_gates`, and
        [DeepSeek-V3](https://arxiv.org/abs/2412.19437), section 2.1.2.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.TokenChoiceMoE(
    ...     num_experts=8, top_k=2, importance_loss=0.01, intermediate_dim=64)
    >>> outputs = layer(keras.random.normal((2, 16, 32)))
    >>> tuple(outputs.shape), len(layer.losses)
    ((2, 16, 32), 1)
    >>> layer = keras_moe.layers.TokenChoiceMoE(  # as in Mixtral
    ...     8, 2, capacity_factor=None, normalize_gates=True,
    ...     activation="silu", gated=True, use_bias=False, intermediate_dim=64)
    >>> tuple(layer(keras.random.normal((2, 16, 32))).shape)
    (2, 16, 32)
    """

    plan_kind = "hard"

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        *,
        capacity_factor: float | None = 1.0,
        normalize_gates: bool = False,
        scoring: str = "softmax",
        router_bias: bool = False,
        routed_scaling: float = 1.0,
        num_expert_groups: int | None = None,
        top_groups: int | None = None,
        balance_bias_rate: float = 0.0,
        shared_intermediate_dim: int | None = None,
        shared_gate: bool = False,
        jitter: float = 0.0,
        eval_capacity_factor: float | None = None,
        balance_over: str = "first",
        capacity_rounding: str = "ceil",
        capacity_multiple_of: int = 1,
        batch_priority: bool = False,
        group_size: int | None = None,
        noise_std: float = 0.0,
        importance_loss: float = 0.0,
        load_loss: float = 0.0,
        balance_loss: float = 0.0,
        z_loss: float = 0.0,
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
            plan_kind="grouped" if capacity_factor is None else "hard",
        )
        self.top_k = checks.integer("top_k", top_k)
        if self.top_k > self.num_experts:
            raise ValueError(
                "top_k must not exceed num_experts; received "
                f"top_k={top_k} with num_experts={num_experts}."
            )
        self.capacity_factor = checks.optional_real(
            "capacity_factor", capacity_factor, exclusive=True
        )
        self.capacity_rounding = checks.choice(
            "capacity_rounding", capacity_rounding, ("ceil", "round")
        )
        self.capacity_multiple_of = checks.integer(
            "capacity_multiple_of", capacity_multiple_of
        )
        self.batch_priority = checks.flag("batch_priority", batch_priority)
        self.prepare_options(
            normalize_gates=normalize_gates,
            scoring=scoring,
            router_bias=router_bias,
            routed_scaling=routed_scaling,
            num_expert_groups=num_expert_groups,
            top_groups=top_groups,
            balance_bias_rate=balance_bias_rate,
            shared_intermediate_dim=shared_intermediate_dim,
            shared_gate=shared_gate,
            jitter=jitter,
            eval_capacity_factor=eval_capacity_factor,
            balance_over=balance_over,
        )
        self.group_size = checks.optional_integer("group_size", group_size)
        self.prepare_noise(noise_std, self.jitter)
        self.importance_loss = checks.real("importance_loss", importance_loss)
        self.load_loss = checks.real("load_loss", load_loss)
        self.balance_loss = checks.real("balance_loss", balance_loss)
        self.z_loss = checks.real("z_loss", z_loss)

    def get_config(self):
        config = super().get_config()
        config.update(
            top_k=self.top_k,
            capacity_factor=self.capacity_factor,
            **{name: getattr(self, name) for name in OPTIONS},
            capacity_rounding=self.capacity_rounding,
            capacity_multiple_of=self.capacity_multiple_of,
            batch_priority=self.batch_priority,
            group_size=self.group_size,
            noise_std=self.noise_std,
            importance_loss=self.importance_loss,
            load_loss=self.load_loss,
            balance_loss=self.balance_loss,
            z_loss=self.z_loss,
        )
        return config

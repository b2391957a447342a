"""Token choice: each token asks for its best experts, until they are full."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import grouping
from keras_moe import losses
from keras_moe import routing
from keras_moe.layers.base import MoELayer
from keras_moe.plans import softmax


@keras.saving.register_keras_serializable(package="keras_moe")
class TokenChoiceMoE(MoELayer):
    """Sends each token to the `top_k` experts it prefers, if seats are left.

    With X (T,D) the tokens of one group and S the capacity of an expert:

        gates = softmax over E of (X · router_kernel)            (T,E)
        token t asks for the experts of its top_k largest gates[t]
        output[t] = sum over the experts e that had a seat for t of
                    gates[t,e] · expert_e(X[t])                  (T,D)

    Experts seat first choices before second ones and then earlier tokens
    before later ones. A token that finds no seat is dropped: it gets zero,
    and the residual branch around the layer carries it on. The gates are not
    normalised again. Without drops a token's output depends on that token
    alone; with them, on the other tokens of its group, with `group_size`
    above the length of a sequence on other examples too.

    Auxiliary losses are added through `add_loss`, in training and in
    evaluation, each as its weight times the mean over groups (that of the
    z-loss over all tokens).

    Args:
        num_experts: E, the number of experts.
        top_k: how many experts a token asks for, at most E.
        capacity_factor: S = T · top_k · capacity_factor / E, rounded, and
            at most T.
        capacity_rounding: `"ceil"`, or `"round"`, which takes halves to even.
        capacity_multiple_of: S is raised to a multiple of this.
        batch_priority: whether the tokens with the largest best gate sit
            first (batch priority routing), instead of the earlier ones.
        group_size: T, tokens that share the experts' seats: runs of the whole
            batch's tokens, whose number it must divide. `None` makes each
            sequence a group.
        noise_std: noise on the logits in training; its standard deviation is
            `noise_std / num_experts`.
        importance_loss: weight of `keras_moe.losses.importance_loss`.
        load_loss: weight of `keras_moe.losses.load_loss`, which exists only
            where there is noise, that is in training with `noise_std`.
        balance_loss: weight of `keras_moe.losses.balance_loss` (GShard's).
        z_loss: weight of `keras_moe.losses.z_loss`.
        intermediate_dim: F, hidden features of each expert's MLP. Exactly one
            of `intermediate_dim` and `expert` is given.
        expert: a layer that maps (batch, tokens, features) to the same shape.
            Each expert is a fresh clone of it, made from its config (weights
            are not copied, its dtype is kept), and the clones run one after
            another: more general and slower.
        activation: of the hidden features, any Keras activation, or
            `"gelu_tanh"`, the tanh form that the vmoe codes use.
        gated: whether each expert is `down(activation(gate(x)) * up(x))`
            instead of `down(activation(up(x)))`.
        use_bias: whether the experts' projections have biases.
        dropout: rate of dropout on the experts' hidden features, in training.
        kernel_initializer: of each expert's kernels, drawn for each expert by
            itself; pass `keras_moe.initializers.PerExpert(…,
            identical=True)` to start all experts equal.
        bias_initializer: of the experts' biases.
        router_initializer: of the router's weights.
        kernel_regularizer: of the experts' kernels.
        bias_regularizer: of the experts' biases.
        kernel_constraint: of the experts' kernels.
        bias_constraint: of the experts' biases.
        implementation: `"auto"` or the name of one way to dispatch and
            combine: `"reference"` (one-hot
            products) or `"gather"` (by index).
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32
            whatever the policy, the experts in the compute dtype.
        trainable: whether the weights are trained.

    Input shape: (batch, tokens, features), or more token axes, such as
        (batch, height, width, features). Batch and tokens may be unknown
        (`None`) when the layer is built. Output shape: the same.

    Mask: Boolean, the inputs' shape without features. A `False` token asks
        for nothing, its output is zero and the losses do not see it. S
        counts masked tokens as tokens.

    Weights: `router_kernel` (D,E), in float32; `experts/up`, `experts/gate`
        if `gated`, `experts/down`, each `kernel` (E, inputs, outputs) and
        `bias` (E,1,outputs).

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [Scaling Vision with Sparse Mixture of Experts](
        https://arxiv.org/abs/2106.05974), vmoe/nn/routing.py
        (NoisyTopExpertsPerItemRouter), whose capacities are multiples of 4.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.TokenChoiceMoE(
    ...     num_experts=8, top_k=2, importance_loss=0.01, intermediate_dim=64)
    >>> outputs = layer(keras.random.normal((2, 16, 32)))
    >>> tuple(outputs.shape), len(layer.losses)
    ((2, 16, 32), 1)
    """

    plan_kind = "hard"

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        *,
        capacity_factor: float | None = 1.0,
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
        if self.capacity_factor is None:
            self.least_axes = 2
            self._check_dropless()
        self.group_size = checks.optional_integer("group_size", group_size)
        self.prepare_noise(noise_std)
        self.importance_loss = checks.real("importance_loss", importance_loss)
        self.load_loss = checks.real("load_loss", load_loss)
        self.balance_loss = checks.real("balance_loss", balance_loss)
        self.z_loss = checks.real("z_loss", z_loss)

    def _check_dropless(self):
        """Raise an error for what only experts with a capacity have."""
        for name, default in (
            ("capacity_rounding", "ceil"),
            ("capacity_multiple_of", 1),
            ("batch_priority", False),
        ):
            value = getattr(self, name)
            if value != default:
                raise ValueError(
                    f"{name} must be left at its default, {default!r}, where "
                    "capacity_factor=None, which drops no token; received "
                    f"{value!r}."
                )

    def build_router(self, features):
        self.router_kernel = self.add_router_weight(
            "router_kernel",
            (features, self.num_experts),
            self.router_initializer,
        )

    def group(self, tokens, mask, training):
        if self.group_size is None:
            return super().group(tokens, mask, training)
        return grouping.runs(tokens, mask, self.group_size)

    def route(self, tokens, mask, training):
        logits = noisy = self.logits(tokens)  # (G,T,E)
        if training and self.noise_std > 0:
            std = self.noise_std / self.num_experts
            noisy = logits + self.noise(ops.shape(logits), std)
        gates = softmax(noisy, axis=-1)
        self.add_losses(logits, noisy, gates, mask)
        if self.capacity_factor is None:
            return routing.dropless_choice(gates, self.top_k, mask=mask)
        return routing.token_choice(
            gates,
            self.top_k,
            self.capacity(ops.shape(tokens)[1]),
            batch_priority=self.batch_priority,
            mask=mask,
        )

    def capacity(self, num_tokens):
        """S, the seats of each expert, for groups of `num_tokens`."""
        return routing.expert_capacity(
            num_tokens,
            self.num_experts,
            self.capacity_factor,
            top_k=self.top_k,
            rounding=self.capacity_rounding,
            multiple_of=self.capacity_multiple_of,
        )

    def add_losses(self, logits, noisy, gates, mask):
        """Hand the auxiliary losses that have a weight to Keras."""
        if self.importance_loss > 0:
            clean = softmax(logits, axis=-1)
            loss = losses.importance_loss(clean, mask)
            self.add_loss(self.importance_loss * loss)
        if self.load_loss > 0 and noisy is not logits:
            std = self.noise_std / self.num_experts
            loss = losses.load_loss(logits, noisy, std, self.top_k, mask)
            self.add_loss(self.load_loss * loss)
        if self.balance_loss > 0:
            loss = losses.balance_loss(gates, mask)
            self.add_loss(self.balance_loss * loss)
        if self.z_loss > 0:
            self.add_loss(self.z_loss * losses.z_loss(logits, mask))

    def get_config(self):
        config = super().get_config()
        config.update(
            top_k=self.top_k,
            capacity_factor=self.capacity_factor,
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

"""Soft MoE: every slot reads a mixture of the tokens of its sequence."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import constraints
from keras_moe import routing
from keras_moe.layers.base import MoELayer


@keras.saving.register_keras_serializable(package="keras_moe")
class SoftMoE(MoELayer):
    """Mixes each sequence's tokens into slots for experts, and mixes back.

    With X (T,D) the tokens of one sequence and Φ (D,E,S) the slot embeddings:

        L = unit(X) · (scale · unit(Φ))           (T,E,S)
        slots = softmax over T of L, transposed, · X      (E,S,D)
        output = softmax over (E,S) jointly of L · experts(slots)    (T,D)

    No token is dropped, no auxiliary loss is needed, and the cost depends on
    the number of slots, E·S, not on the number of experts. A token reads the
    whole sequence, later tokens too, so the layer is not causal. Sequences of
    the batch do not meet.

    Args:
        num_experts: E, the number of experts.
        slots_per_expert: S, slots of each expert. E·S near the number of
            tokens costs what the dense MLP costs.
        normalize: whether tokens and slot embeddings are scaled to length one
            and multiplied by a learned `scale`. `False` takes L = X · Φ.
        noise_std: standard deviation of the noise on L, in training.
        max_scale: `None`, or a number that bounds |`scale`|, in training by a
            constraint and in every call. Up to 40 it lets one exponential
            serve both softmaxes on every device (`"shared_exp"`), with the
            least memory. Not in the reference.
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
            combine: `"reference"`, the plain formulas; `"shared_exp"`, one
            exponential for both softmaxes, which needs a `max_scale` of at
            most 40; `"cpu"`, the same on CPUs, decided by the value of
            `scale` (JAX, PyTorch); `"streaming"`, which holds no array
            (tokens x slots) and takes more time. All but the first refuse
            noise, the two of one exponential also float16 and
            `normalize=False`. `"auto"` takes what the benchmarks found best,
            and streams where that array would exceed
            `keras_moe.ops.STREAMING_BYTES`, 512 MiB, on a device.
        name: the layer's name.
        dtype: the layer's dtype or policy. The router computes in float32
            whatever the policy, the experts in the compute dtype.
        trainable: whether the weights are trained.

    Input shape: (batch, tokens, features), or more token axes, such as
        (batch, height, width, features). Batch and tokens may be unknown
        (`None`) when the layer is built. Output shape: the same.

    Mask: Boolean, the inputs' shape without features. A `False` token is read
        by no slot and its output is zero.

    Weights: `slot_embedding` (D,E,S), `scale` () if `normalize`, both in
        float32; `experts/up`, `experts/gate` if `gated`, `experts/down`, each
        `kernel` (E, inputs, outputs) and `bias` (E,1,outputs).

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [From Sparse to Soft Mixtures of Experts](
        https://arxiv.org/abs/2308.00951), vmoe/projects/soft_moe/router.py.
        Equal to it in float32; it rounds tokens to bfloat16 on the way.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.SoftMoE(
    ...     num_experts=16, slots_per_expert=1, intermediate_dim=512)
    >>> outputs = layer(keras.random.normal((2, 14, 14, 32)))
    >>> tuple(outputs.shape)
    (2, 14, 14, 32)
    """

    plan_kind = "soft"

    def __init__(
        self,
        num_experts: int,
        slots_per_expert: int,
        *,
        normalize: bool = True,
        noise_std: float = 0.0,
        max_scale: float | None = None,
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
        self.slots_per_expert = checks.integer(
            "slots_per_expert", slots_per_expert
        )
        self.normalize = checks.flag("normalize", normalize)
        self.prepare_noise(noise_std)
        if max_scale is not None:
            max_scale = checks.real("max_scale", max_scale, exclusive=True)
            if not self.normalize:
                raise ValueError(
                    "max_scale must be None where normalize=False, as there "
                    f"is no scale to bound; received {max_scale!r}."
                )
        self.max_scale = max_scale

    def build_router(self, features):
        self.slot_embedding = self.add_router_weight(
            "slot_embedding",
            (features, self.num_experts, self.slots_per_expert),
            self.router_initializer,
        )
        self.scale = None
        if self.normalize:
            limit = self.max_scale and constraints.MaxSize(self.max_scale)
            self.scale = self.add_router_weight("scale", (), "ones", limit)

    def route(self, tokens, mask, training):
        noise = None
        if training and self.noise_std > 0:
            seats = (self.num_experts, self.slots_per_expert)
            shape = (*ops.shape(tokens)[:2], *seats)
            noise = self.noise(shape, self.noise_std)
        return routing.soft_moe(
            ops.cast(tokens, self.router_dtype),
            ops.convert_to_tensor(self.slot_embedding),
            None if self.scale is None else ops.convert_to_tensor(self.scale),
            normalize=self.normalize,
            max_scale=self.max_scale,
            noise=noise,
            mask=mask,
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            slots_per_expert=self.slots_per_expert,
            normalize=self.normalize,
            noise_std=self.noise_std,
            max_scale=self.max_scale,
        )
        return config

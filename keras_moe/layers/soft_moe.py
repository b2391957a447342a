"""Soft MoE: every slot reads a mixture of the tokens of its sequence."""

import math

import keras
from keras import ops

from keras_moe import checks
from keras_moe import constraints
from keras_moe import routing
from keras_moe.layers.base import MoELayer
from keras_moe.scalars import keep


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
            tokens costs what the dense MLP costs. Exactly one of
            `slots_per_expert` and `capacity_factor` is given.
        capacity_factor: c; S = T · c / E, rounded, halves to even, and at
            least 1, of the T tokens that the layer is built for, which must be
            known. Inputs of other lengths have as many slots. (vmoe; dopamine
            rounds up, and soft-moe-pytorch has `seq_len` for c = 1.)
        output_dim: features of the output, and of the experts' outputs;
            `None` is D (dopamine's `maintain_token_size=False`).
        slot_shape: `None`, or (h, w), h · w = S: the layer `expert` receives
            the slots of an expert as a grid (batch, h, w, features), and
            returns one (dopamine's `"BIG"` experts, which are convolutional).
        key_projection: whether the router computes logits from
            X · key_scale + key_offset instead of X, both learned for each
            feature (MoE Jetpack; soft-moe-pytorch has a scale after the
            normalisation).
        expert_dropout: probability that an expert's outputs for a sequence are
            zero in training; the outputs of the others are divided by one
            minus it (MoE Jetpack's idea, whose code drops all experts of a
            sequence).
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
        (batch, height, width, features). Batch and, without a
        `capacity_factor`, tokens may be unknown (`None`) when the layer is
        built. Output shape: the same, with `output_dim` features if given.

    Mask: Boolean, the inputs' shape without features. A `False` token is read
        by no slot and its output is zero.

    Weights: `slot_embedding` (D,E,S), `scale` () if `normalize`, `key_scale`
        and `key_offset` (D,) if `key_projection`, all in float32;
        `experts/up`, `experts/gate` if `gated`, `experts/down`, each `kernel`
        (E, inputs, outputs) and `bias` (E,1,outputs).

    Raises:
        ValueError: for any argument or input that does not fit.

    Reference: [From Sparse to Soft Mixtures of Experts](
        https://arxiv.org/abs/2308.00951), vmoe/projects/soft_moe/router.py.
        Equal to it in float32; it rounds tokens to bfloat16 on the way.
        Options that other codes have, as said there: dopamine's
        labs/moes/architectures/softmoe.py ([value networks](
        https://arxiv.org/abs/2402.08609)), [MoE Jetpack](
        https://arxiv.org/abs/2406.04801)'s models/soft_moe.py and
        lucidrains' soft-moe-pytorch.

    Example:

    >>> import keras, keras_moe
    >>> layer = keras_moe.layers.SoftMoE(
    ...     num_experts=16, slots_per_expert=1, intermediate_dim=512)
    >>> outputs = layer(keras.random.normal((2, 14, 14, 32)))
    >>> tuple(outputs.shape)
    (2, 14, 14, 32)
    >>> layer = keras_moe.layers.SoftMoE(  # of a value network
    ...     8, capacity_factor=1.0, output_dim=64, intermediate_dim=128)
    >>> tuple(layer(keras.random.normal((2, 11, 11, 32))).shape)
    (2, 11, 11, 64)
    """

    plan_kind = "soft"

    def __init__(
        self,
        num_experts: int,
        slots_per_expert: int | None = None,
        *,
        capacity_factor: float | None = None,
        output_dim: int | None = None,
        slot_shape: tuple[int, int] | None = None,
        key_projection: bool = False,
        expert_dropout: float = 0.0,
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
            output_dim=output_dim,
            slot_shape=_shape(slot_shape, slots_per_expert, expert),
        )
        self.slots_per_expert = checks.optional_integer(
            "slots_per_expert", slots_per_expert
        )
        self.capacity_factor = checks.optional_real(
            "capacity_factor", capacity_factor, exclusive=True
        )
        if (slots_per_expert is None) == (capacity_factor is None):
            raise ValueError(
                "exactly one of slots_per_expert and capacity_factor must be "
                f"given; received slots_per_expert={slots_per_expert!r} and "
                f"capacity_factor={capacity_factor!r}."
            )
        self.key_projection = checks.flag("key_projection", key_projection)
        self.expert_dropout = checks.rate("expert_dropout", expert_dropout)
        if self.expert_dropout:
            self.expert_seed = keras.random.SeedGenerator()
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

    def _drop_experts(self, slots):
        """Zero the outputs of some experts, (G,E,S,D), and scale the others."""
        share = 1.0 - self.expert_dropout
        shape = (ops.shape(slots)[0], self.num_experts, 1, 1)
        drawn = keras.random.uniform(
            shape, dtype=self.router_dtype, seed=self.expert_seed
        )
        return keep(drawn < share, slots * (1.0 / share))

    def build(self, input_shape):
        self.num_slots = self.slots_per_expert
        if self.num_slots is None:
            tokens = input_shape[1:-1]
            if None in tokens:
                raise ValueError(
                    "inputs must have a known number of tokens when a layer "
                    "with capacity_factor is built; received shape "
                    f"{tuple(input_shape)}."
                )
            exact = math.prod(tokens) * self.capacity_factor / self.num_experts
            self.num_slots = max(1, round(exact))
        super().build(input_shape)

    def build_router(self, features):
        self.slot_embedding = self.add_router_weight(
            "slot_embedding",
            (features, self.num_experts, self.num_slots),
            self.router_initializer,
        )
        self.key_scale = self.key_offset = None
        if self.key_projection:
            shape = (features,)
            self.key_scale = self.add_router_weight("key_scale", shape, "ones")
            self.key_offset = self.add_router_weight(
                "key_offset", shape, "zeros"
            )
        self.scale = None
        if self.normalize:
            limit = self.max_scale and constraints.MaxSize(self.max_scale)
            self.scale = self.add_router_weight("scale", (), "ones", limit)

    def route(self, tokens, mask, training):
        noise = None
        if training and self.noise_std > 0:
            slots = (self.num_experts, self.num_slots)
            shape = (*ops.shape(tokens)[:2], *slots)
            noise = self.noise(shape, self.noise_std)
        keys = ops.cast(tokens, self.router_dtype)
        if self.key_projection:
            keys = keys * self.key_scale + self.key_offset
        return routing.soft_moe(
            keys,
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
            capacity_factor=self.capacity_factor,
            output_dim=self.output_dim,
            slot_shape=self.slot_shape,
            key_projection=self.key_projection,
            expert_dropout=self.expert_dropout,
            normalize=self.normalize,
            noise_std=self.noise_std,
            max_scale=self.max_scale,
        )
        return config


def _shape(slot_shape, slots_per_expert, expert):
    """The argument `slot_shape`, checked."""
    if slot_shape is None:
        return None
    try:
        height, width = slot_shape
        sides = checks.integer("", height), checks.integer("", width)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "slot_shape must be None or two integers of at least 1, (height, "
            f"width); {checks.received(slot_shape)}."
        ) from error
    for name, value in (
        ("expert", expert),
        ("slots_per_expert", slots_per_expert),
    ):
        if value is None:
            raise ValueError(
                f"slot_shape must be None where {name} is None; received "
                f"{sides}."
            )
    slots = checks.integer("slots_per_expert", slots_per_expert)
    if math.prod(sides) != slots:
        raise ValueError(
            f"slot_shape must multiply to slots_per_expert, {slots}; received "
            f"{sides}, which multiply to {math.prod(sides)}."
        )
    return sides

"""What the four layers share: one straight path from tokens to tokens."""

import os
import re

import keras
from keras import ops

from keras_moe import activations
from keras_moe import checks
from keras_moe import diagnostics
from keras_moe import grouping
from keras_moe import ops as moe_ops
from keras_moe.layers.experts import ClonedExperts
from keras_moe.layers.experts import FeedForwardExperts

EXPERT_DEFAULTS = {
    "activation": "gelu",
    "gated": False,
    "use_bias": True,
    "dropout": 0.0,
    "kernel_initializer": "glorot_uniform",
    "bias_initializer": "zeros",
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
}


class MoELayer(keras.layers.Layer):
    """Base of the layers: subclasses say `group` and `route`.

    A subclass sets `plan_kind`, creates its router's weights in `build_router`
    and returns a plan from `route`. It may say in `group` which tokens meet.
    """

    plan_kind = None

    def __init__(
        self,
        num_experts,
        *,
        intermediate_dim,
        expert,
        activation,
        gated,
        use_bias,
        dropout,
        kernel_initializer,
        bias_initializer,
        router_initializer,
        kernel_regularizer,
        bias_regularizer,
        kernel_constraint,
        bias_constraint,
        implementation,
        name,
        dtype,
        trainable,
    ):
        # Keras would turn SoftMoE into soft_mo_e.
        name = _next_name(self.__class__.__name__) if name is None else name
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.supports_masking = True
        self.num_experts = checks.integer("num_experts", num_experts)
        self.intermediate_dim = intermediate_dim
        self.activation = checks.resolve(
            "activation", activations.get, activation, "a Keras activation"
        )
        self.gated = checks.flag("gated", gated)
        self.use_bias = checks.flag("use_bias", use_bias)
        self.dropout = checks.rate("dropout", dropout)
        self.implementation = checks.choice(
            "implementation", implementation, moe_ops.names(self.plan_kind)
        )
        for name, value in (
            ("kernel_initializer", kernel_initializer),
            ("bias_initializer", bias_initializer),
            ("router_initializer", router_initializer),
        ):
            get, kind = keras.initializers.get, "a Keras initialiser"
            setattr(self, name, checks.resolve(name, get, value, kind))
        for name, value in (
            ("kernel_regularizer", kernel_regularizer),
            ("bias_regularizer", bias_regularizer),
        ):
            get, kind = keras.regularizers.get, "a Keras regulariser or None"
            setattr(self, name, checks.resolve(name, get, value, kind))
        for name, value in (
            ("kernel_constraint", kernel_constraint),
            ("bias_constraint", bias_constraint),
        ):
            get, kind = keras.constraints.get, "a Keras constraint or None"
            setattr(self, name, checks.resolve(name, get, value, kind))
        # Around Keras' tracking: the template itself is never built or saved.
        object.__setattr__(self, "expert", expert)
        self.experts = self._make_experts()

    def _make_experts(self):
        if (self.intermediate_dim is None) == (self.expert is None):
            raise ValueError(
                "exactly one of intermediate_dim and expert must be given; "
                f"received intermediate_dim={self.intermediate_dim!r} and "
                f"expert={self.expert!r}."
            )
        config = {name: getattr(self, name) for name in EXPERT_DEFAULTS}
        place = {"dtype": self.dtype_policy, "name": "experts"}
        if self.expert is None:
            width = checks.integer("intermediate_dim", self.intermediate_dim)
            return FeedForwardExperts(
                self.num_experts, width, **config, **place
            )
        if not isinstance(self.expert, keras.layers.Layer):
            raise ValueError(
                "expert must be a Keras layer that maps (batch, tokens, "
                f"features) to the same shape; {checks.received(self.expert)}."
            )
        config = self._expert_config()
        for name, default in EXPERT_DEFAULTS.items():
            if config[name] != _config_of(name, default):
                raise ValueError(
                    f"{name} must be left at its default, {default!r}, when "
                    "expert is given, which brings its own; received "
                    f"{config[name]!r}."
                )
        return ClonedExperts(self.num_experts, self.expert, **place)

    # === Building ===

    def build(self, input_shape):
        if len(input_shape) < 3:
            raise ValueError(
                f"inputs of {self.__class__.__name__} must have three axes or "
                "more, (batch, tokens, features); received shape "
                f"{tuple(input_shape)}."
            )
        features = input_shape[-1]
        if features is None:
            raise ValueError(
                f"inputs of {self.__class__.__name__} must have a known number "
                "of features, the last axis, before the layer is built; "
                f"received shape {tuple(input_shape)}."
            )
        self.build_router(features)
        self.experts.build((None, self.num_experts, None, features))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={-1: features}
        )
        self.built = True

    def build_router(self, features):
        """Create the router's weights."""
        raise NotImplementedError

    def prepare_noise(self, noise_std):
        """Set `noise_std`, and the random state if there is noise."""
        self.noise_std = checks.real("noise_std", noise_std)
        if self.noise_std > 0:
            self.seed_generator = keras.random.SeedGenerator()

    def noise(self, shape, std):
        """Normal noise for router logits."""
        return keras.random.normal(
            shape,
            stddev=std,
            dtype=self.router_dtype,
            seed=self.seed_generator,
        )

    def add_router_weight(self, name, shape, initializer):
        """A weight that stays in the routing dtype under mixed precision."""
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype=self.router_dtype,
            autocast=False,
        )

    @property
    def router_dtype(self):
        """float32 whatever the experts compute in, or float64 with them."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    # === The straight path ===

    def call(self, inputs, mask=None, training=None):
        tokens, mask, join = self.split(inputs, mask, training)  # (G,T,D)
        plan = self.route(tokens, mask, training)
        diagnostics.record(self, plan)
        implementation = self.resolve_implementation(tokens, plan)
        slots = moe_ops.dispatch(tokens, plan, implementation)  # (G,E,S,D)
        slots = self.experts(slots, training=training)  # (G,E,S,D)
        outputs = moe_ops.combine(slots, plan, implementation)  # (G,T,D)
        return join(outputs)

    def split(self, inputs, mask, training):
        """Groups of tokens, their mask, and the way back."""
        if mask is not None:
            mask = self._checked_mask(mask, inputs)
        tokens, mask, unflatten = grouping.flatten(inputs, mask)
        tokens, mask, ungroup = self.group(tokens, mask, training)
        return tokens, mask, lambda outputs: unflatten(ungroup(outputs))

    def group(self, tokens, mask, training):
        """Which tokens meet: here, those of one sequence."""
        return tokens, mask, lambda outputs: outputs

    def route(self, tokens, mask, training):
        """Decide who reads whom: a plan for tokens (G,T,D)."""
        raise NotImplementedError

    def resolve_implementation(self, tokens, plan):
        """The name of the implementation that serves these tokens."""
        return moe_ops.select(
            moe_ops.plan_kind(plan),
            self.implementation,
            keras.backend.backend(),
            tokens.shape[1],
            self.num_experts,
            os.environ.get(moe_ops.ENVIRONMENT),
        )

    def logits(self, tokens):
        """Router logits tokens · router_kernel, in the routing dtype."""
        tokens = ops.cast(tokens, self.router_dtype)
        return ops.einsum("gtd,de->gte", tokens, self.router_kernel)

    def _checked_mask(self, mask, inputs):
        expected = tuple(inputs.shape[:-1])
        came = tuple(mask.shape)
        fits = len(came) == len(expected) and all(
            a == b for a, b in zip(came, expected) if None not in (a, b)
        )
        if not fits:
            raise ValueError(
                "mask must have the shape of inputs without the features, "
                f"{expected}; received shape {came}."
            )
        return ops.cast(mask, "bool")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    # === Saving ===

    def _expert_config(self):
        return {n: _config_of(n, getattr(self, n)) for n in EXPERT_DEFAULTS}

    def get_config(self):
        config = super().get_config()
        config.update(self._expert_config())
        expert = self.expert
        if expert is not None:
            expert = keras.saving.serialize_keras_object(expert)
        config.update(
            num_experts=self.num_experts,
            intermediate_dim=self.intermediate_dim,
            expert=expert,
            router_initializer=_config_of(
                "router_initializer", self.router_initializer
            ),
            implementation=self.implementation,
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("expert"), dict):
            config["expert"] = keras.saving.deserialize_keras_object(
                config["expert"]
            )
        # A name that this backend lacks was chosen on another one.
        known = moe_ops.IMPLEMENTATIONS.get(config.get("implementation"))
        if known and keras.backend.backend() not in known.backends:
            config["implementation"] = "auto"
        return super().from_config(config)


def _next_name(class_name):
    """SoftMoE -> soft_moe, then soft_moe_1, and so on."""
    words = class_name.replace("MoE", "Moe")
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", words).lower()
    used = keras.backend.get_uid(name) - 1
    return f"{name}_{used}" if used else name


def _config_of(name, value):
    """The entry of a layer's config for the argument `name`."""
    for ending, room in (
        ("activation", activations),
        ("initializer", keras.initializers),
        ("regularizer", keras.regularizers),
        ("constraint", keras.constraints),
    ):
        if name.endswith(ending):
            value = room.get(value)
            return None if value is None else room.serialize(value)
    return value

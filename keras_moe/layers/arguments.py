"""Arguments that all layers share: checked, kept, and written to configs."""

import re

import keras

from keras_moe import activations
from keras_moe import checks
from keras_moe import ops as moe_ops
from keras_moe import policies
from keras_moe.layers.cloned_experts import ClonedExperts
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


class ConfiguredLayer(keras.layers.Layer):
    """A layer with experts: what it is given, it is, and it saves.

    A subclass says in `plan_kind` which plans its router makes, and so which
    implementations it may name. A layer may make others by its arguments, and
    says so when it is made.
    """

    plan_kind: str | None = None

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
        plan_kind=None,
        output_dim=None,
        slot_shape=None,
    ):
        # Keras would turn SoftMoE into soft_mo_e.
        name = _next_name(self.__class__.__name__) if name is None else name
        super().__init__(
            name=checks.name("name", name),
            dtype=checks.resolve(
                "dtype", keras.dtype_policies.get, dtype, "a Keras dtype"
            ),
            trainable=checks.flag("trainable", trainable),
        )
        self.supports_masking = True
        if plan_kind is not None:
            self.plan_kind = plan_kind
        self.num_experts = checks.integer("num_experts", num_experts)
        self.output_dim = checks.optional_integer("output_dim", output_dim)
        self.slot_shape = slot_shape
        self.intermediate_dim = checks.optional_integer(
            "intermediate_dim", intermediate_dim
        )
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
        config = self.expert_options()
        place = {
            "dtype": self.dtype_policy,
            "name": "experts",
            "output_dim": self.output_dim,
        }
        if self.expert is None:
            return FeedForwardExperts(
                self.num_experts, self.intermediate_dim, **config, **place
            )
        if not isinstance(self.expert, keras.layers.Layer):
            raise ValueError(
                "expert must be a Keras layer that maps (batch, tokens, "
                f"features) to the same shape; {checks.received(self.expert)}."
            )
        for name, default in EXPERT_DEFAULTS.items():
            value = getattr(self, name)
            if not _same(name, value, default):
                raise ValueError(
                    f"{name} must be left at its default, {default!r}, when "
                    "expert is given, which brings its own; received "
                    f"{_config_of(name, value)!r}."
                )
        return ClonedExperts(
            self.num_experts, self.expert, slot_shape=self.slot_shape, **place
        )

    def expert_options(self):
        """Arguments of this layer that are its experts'."""
        return {name: getattr(self, name) for name in EXPERT_DEFAULTS}

    def _expert_config(self):
        return {n: _config_of(n, getattr(self, n)) for n in EXPERT_DEFAULTS}

    def _saved_policy(self):
        """The dtype policy, and those of the projections if quantised."""
        policy = policies.of(self)
        if self.expert is not None and isinstance(
            policy, keras.dtype_policies.DTypePolicyMap
        ):
            raise ValueError(
                "a layer made with expert= cannot be saved once it is "
                f"quantised, and {self.path!r} is; save it before, and "
                "quantise what you load."
            )
        return policy

    def get_config(self):
        config = super().get_config()
        config.update(self._expert_config())
        expert = self.expert
        if expert is not None:
            expert = keras.saving.serialize_keras_object(expert)
        config.update(
            dtype=keras.dtype_policies.serialize(self._saved_policy()),
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


def _module(name):
    """The module that `get`s and `serialize`s the argument `name`, if any."""
    for ending, module in (
        ("activation", activations),
        ("initializer", keras.initializers),
        ("regularizer", keras.regularizers),
        ("constraint", keras.constraints),
    ):
        if name.endswith(ending):
            return module
    return None


def _config_of(name, value):
    """The entry of a layer's config for the argument `name`."""
    module = _module(name)
    if module is None:
        return value
    value = module.get(value)
    return None if value is None else module.serialize(value)


def _same(name, value, default):
    """Whether `value` is what the argument `name` is by default.

    Serialised forms do not tell: while a file is loaded, Keras marks those of
    objects at one address as shared, and a temporary object's is free again.
    """
    module = _module(name)
    if module is not None:
        value, default = module.get(value), module.get(default)
    if not hasattr(default, "get_config"):
        return value == default
    same_class = type(value) is type(default)
    return same_class and value.get_config() == default.get_config()

"""Base of the four layers: one straight path from tokens to tokens."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import diagnostics
from keras_moe import distribution
from keras_moe import grouping
from keras_moe import ops as moe_ops
from keras_moe.layers.arguments import ConfiguredLayer
from keras_moe.layers.inputs import check_mask
from keras_moe.plans import GroupedPlan
from keras_moe.scalars import keep


class MoELayer(ConfiguredLayer):
    """Base of the layers: subclasses say `group` and `route`.

    A subclass creates its router's weights in `build_router` and returns a
    plan from `route`. It may say in `group` which tokens meet.
    """

    least_axes = 3  # of inputs; 2 where rows need no neighbours
    expert_dropout = 0.0  # above it, `_drop_experts` drops some
    joint = None  # between processes: `torch_exchanges.Joint`

    # === The straight path ===

    def call(self, inputs, mask=None, training=None):
        tokens, mask, join = self.split(inputs, mask, training)  # (G,T,D)
        plan = self.route(tokens, mask, training)
        if diagnostics.open_blocks:
            diagnostics.record(self, plan)
        dispatcher = self.dispatcher(plan, tokens.dtype)
        slots = dispatcher.dispatch(tokens)  # (G,E,S,D)
        if keras.distribution.distribution() is not None:
            slots = distribution.exchange(self, slots)
        expert_outputs = self.experts(
            slots, training=training, steps=dispatcher
        )  # (G,E,S,D)
        if diagnostics.open_blocks:
            diagnostics.record_slots(self, slots, expert_outputs)
        if training and self.expert_dropout:
            expert_outputs = self._drop_experts(expert_outputs)
        outputs = dispatcher.combine(expert_outputs)  # (G,T,D)
        return join(outputs)

    def split(self, inputs, mask, training):
        """Groups of tokens, their mask, and the way back."""
        check_tokens(inputs)
        if mask is not None:
            mask = check_mask(mask, inputs)
            # What is masked may hold anything, NaN too.
            inputs = keep(mask[..., None], inputs)
        if len(inputs.shape) == 3:
            return self.group(inputs, mask, training)
        tokens, mask, unflatten = grouping.flatten(inputs, mask)
        tokens, mask, ungroup = self.group(tokens, mask, training)
        return tokens, mask, lambda outputs: unflatten(ungroup(outputs))

    def group(self, tokens, mask, training):
        """Split tokens into routing groups; here, each sequence is one."""
        return tokens, mask, lambda outputs: outputs

    def route(self, tokens, mask, training):
        """Compute the routing plan of tokens (G,T,D)."""
        raise NotImplementedError

    def dispatcher(self, plan, dtype):
        """Build the dispatcher of a plan, for tokens of this dtype."""
        grouped = isinstance(plan, GroupedPlan)
        traits = self.experts.traits() if grouped else ()
        return moe_ops.choose_dispatcher(
            plan, dtype, self.implementation, traits
        )

    def logits(self, tokens):
        """Router logits tokens · router_kernel, in the routing dtype."""
        tokens = ops.cast(tokens, self.router_dtype)
        return ops.einsum("gtd,de->gte", tokens, self.router_kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.output_dim or input_shape[-1])

    # === Building ===

    def build(self, input_shape):
        if len(input_shape) < self.least_axes:
            axes = "three axes or more, (batch, tokens, features)"
            if self.least_axes == 2:
                axes = "two axes or more, such as (batch, features)"
            raise ValueError(
                f"inputs of {self.__class__.__name__} must have {axes}; "
                f"received shape {tuple(input_shape)}."
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
            min_ndim=self.least_axes, axes={-1: features}
        )
        self.built = True

    def enable_lora(self, rank: int, **options):
        """Freeze the experts' kernels and train adapters of them instead.

        Each expert has its own, A (inputs,rank) · B (rank,outputs), for each
        projection; biases and the router stay as they are. A layer that is
        saved has its adapters merged into its kernels, as in Keras.

        Args:
            rank: rank of the adapters, at least 1.
            **options: `lora_alpha`, `a_initializer` and `b_initializer`, as
                in `keras.layers.EinsumDense.enable_lora`.
        """
        if not self.built:
            raise ValueError(
                "a layer must be built before enable_lora is called; received "
                f"{self.name!r}, which is not."
            )
        self.experts.enable_lora(checks.integer("rank", rank), **options)

    def build_router(self, features):
        """Create the router's weights."""
        raise NotImplementedError

    def batch_states(self) -> list:
        """List the variables that a call in training moves by its batch."""
        return []

    def prepare_noise(self, noise_std, jitter=0.0):
        """Set `noise_std`, and the random state if there is any noise."""
        self.noise_std = checks.real("noise_std", noise_std)
        if self.noise_std > 0 or jitter > 0:
            self.seed_generator = keras.random.SeedGenerator()

    def noise(self, shape, std):
        """Normal noise for router logits."""
        return keras.random.normal(
            shape,
            stddev=std,
            dtype=self.router_dtype,
            seed=self.seed_generator,
        )

    def add_router_weight(self, name, shape, initializer, constraint=None):
        """A weight that stays in the routing dtype under mixed precision."""
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            constraint=constraint,
            dtype=self.router_dtype,
            autocast=False,
        )

    @property
    def router_dtype(self):
        """float32 whatever the experts compute in, or float64 with them."""
        return "float64" if self.compute_dtype == "float64" else "float32"


def check_tokens(inputs):
    """Raise an error for inputs that are not tokens of a floating dtype."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if "float" not in dtype:
        raise ValueError(
            f"inputs must be of a floating dtype; received {dtype}."
        )
    if 0 in inputs.shape[1:-1]:
        raise ValueError(
            "inputs must have one token or more; received shape "
            f"{tuple(inputs.shape)}."
        )

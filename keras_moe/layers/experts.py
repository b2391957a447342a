"""What the experts do with their slots: (G,E,S,D) -> (G,E,S,D)."""

import functools

import keras
from keras import ops

from keras_moe.initializers import PerExpert
from keras_moe.ops import reference
from keras_moe.ops.experts import experts_mlp


class FeedForwardExperts(keras.layers.Layer):
    """Every expert is an MLP of its own, all computed in one product.

        hidden = activation(rows · up + bias)                      (E,N,F)
        hidden = activation(rows · gate + bias) * (rows · up + bias)  gated
        output = dropout(hidden) · down + bias                     (E,N,D)

    where rows (E,N,D) are an expert's slots in all groups, N = G·S.

    The projections are Keras' `EinsumDense` layers, so that quantisation and
    LoRA are Keras' own. Arguments as in the layers of this package.
    """

    def __init__(
        self,
        num_experts,
        intermediate_dim,
        activation,
        gated,
        use_bias,
        dropout,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        kernel_constraint,
        bias_constraint,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.kernel_regularizer = kernel_regularizer
        self.bias_regularizer = bias_regularizer
        self.kernel_constraint = kernel_constraint
        self.bias_constraint = bias_constraint
        self.gated = gated
        self.dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, slots_shape):
        features, hidden = slots_shape[-1], self.intermediate_dim
        # Where experts are spread over devices, slots keep their four axes:
        # XLA gathers what a reshape merges.
        self.spread = keras.distribution.distribution() is not None
        outer = (None, self.num_experts, None, features)
        inner = (None, self.num_experts, None, hidden)
        activation = None if self.gated else self.activation
        self.up = self._projection("up", hidden, activation)
        self.up.build(outer)
        if self.gated:
            self.gate = self._projection("gate", hidden, self.activation)
            self.gate.build(outer)
        self.down = self._projection("down", features)
        self.down.build(inner)
        self.built = True

    def _projection(self, name, features, activation=None):
        kernel = self.kernel_initializer
        if not isinstance(kernel, PerExpert):
            kernel = PerExpert(kernel)
        return ExpertDense(
            "gesd,edf->gesf",
            output_shape=(self.num_experts, None, features),
            activation=activation,
            bias_axes="ef" if self.use_bias else None,
            kernel_initializer=kernel,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, slots, training=None, product=reference.product):
        drop = functools.partial(self.dropout, training=training)
        if self.spread:
            return self._mlp(slots, drop)
        rows, restore = by_expert(slots)  # (E,N,D)
        if self._quantised():
            return restore(self._mlp(rows[None], drop)[0])
        weights = [p.weights_of_experts() for p in self._projections()]
        rows = experts_mlp(
            rows, weights, self.activation, between=drop, product=product
        )
        return restore(rows)

    def _mlp(self, rows, drop):
        """The MLP by Keras' own layers, of slots with four axes."""
        hidden = self.up(rows)
        if self.gated:
            hidden = self.gate(rows) * hidden
        return self.down(drop(hidden))

    def _projections(self):
        gate = (self.gate,) if self.gated else ()
        return self.up, self.down, *gate

    def _quantised(self):
        return any(p.quantization_mode for p in self._projections())

    def compute_output_shape(self, slots_shape):
        return slots_shape


class ExpertDense(keras.layers.EinsumDense):
    """Keras' layer, whose arrays `experts_mlp` takes."""

    def weights_of_experts(self):
        """The kernel and the bias, or `None` without one, as autocast."""
        kernel = ops.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        return kernel, bias

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras quantises no subclass that does not ask for it.
        super().quantize(mode, type_check=False, config=config)


def by_expert(slots):
    """(G,E,S,D) -> the rows of each expert (E,G·S,D), and the way back.

    So that all between lies as the products leave it: an activation of what
    is strided takes PyTorch up to four times as long, and products of the
    four axes take JAX up to three times as long where experts have few slots
    (tests/benchmarks/results/soft_moe_layers-*.csv).
    """
    _, experts, seats, features = slots.shape
    seats = ops.shape(slots)[2] if seats is None else seats
    rows = ops.reshape(
        ops.transpose(slots, (1, 0, 2, 3)), (experts, -1, features)
    )

    def restore(rows):
        rows = ops.reshape(rows, (experts, -1, seats, features))
        return ops.transpose(rows, (1, 0, 2, 3))

    return rows, restore


class ClonedExperts(keras.layers.Layer):
    """Every expert is a clone of one layer, called one after another.

    Any layer that maps (G,S,D) to (G,S,D) will do. A Python loop, so slower
    than `FeedForwardExperts`, the more so the more experts there are. The
    clones compute in the template's dtype.
    """

    def __init__(self, num_experts, template, **kwargs):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        config = template.get_config()
        self.clones = []
        for e in range(num_experts):
            named = {**config, "name": f"{template.name}_{e}"}
            self.clones.append(template.__class__.from_config(named))

    def build(self, slots_shape):
        one = (slots_shape[0], slots_shape[2], slots_shape[3])
        for clone in self.clones:
            clone.build(one)
        output = tuple(self.clones[0].compute_output_shape(one))
        if output[-1] != one[-1] or len(output) != 3:
            raise ValueError(
                "expert must return the shape that it is given; received "
                f"an expert that makes {output} of {one}."
            )
        self.built = True

    def call(self, slots, training=None, product=None):
        outputs = [
            # A layer without `training` in its call is not given it.
            clone(slots[:, e], training=training)
            if clone._call_has_training_arg
            else clone(slots[:, e])
            for e, clone in enumerate(self.clones)
        ]
        return ops.cast(ops.stack(outputs, axis=1), self.compute_dtype)

    def compute_output_shape(self, slots_shape):
        return slots_shape

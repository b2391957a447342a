"""Layers of all experts on their slots: (G,E,S,D) -> (G,E,S,D)."""

import functools

import keras
from keras import ops

from keras_moe import activations
from keras_moe import policies
from keras_moe.initializers import PerExpert
from keras_moe.layers import one_expert
from keras_moe.layers.expert_dense import ExpertDense
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

    exchange = None  # between processes: `torch_exchanges.Exchange`

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
        output_dim=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.num_experts = num_experts
        self.intermediate_dim = intermediate_dim
        self.activation = activations.exportable(activation)
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
        self.down = self._projection("down", self.output_dim or features)
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
            kernel_regularizer=one_expert.regularizer(self.kernel_regularizer),
            bias_regularizer=one_expert.regularizer(
                self.bias_regularizer, bias=True
            ),
            kernel_constraint=one_expert.constraint(self.kernel_constraint),
            bias_constraint=one_expert.constraint(
                self.bias_constraint, bias=True
            ),
            dtype=policies.below(
                self.dtype_policy,
                f"{self.name}/{name}",
                f"{self.path}/{name}",
            ),
            name=name,
        )

    def call(self, slots, training=None, steps=reference.PLAIN):
        drop = functools.partial(self.dropout, training=training)
        if self.spread and len(slots.shape) > 2:
            return self._mlp(slots, drop)
        if self.exchange is None:
            return self._compute(slots, drop, steps)
        slots, steps, back = self.exchange.there(slots, steps)
        return back(self._compute(slots, drop, steps))

    def _compute(self, slots, drop, steps):
        rows, restore = by_expert(slots)  # (E,N,D)
        weights = []
        for projection in self.projections():
            if len(slots.shape) == 2:  # sorted by expert
                kernel = functools.partial(projection.multiply, steps.product)
            elif projection.quantization_mode:
                rows = self._mlp(rows[None], drop)[0]
                break
            else:
                kernel = ops.convert_to_tensor(projection.kernel)
            weights.append((kernel, _tensor(projection.bias)))
        else:  # no projection is left to Keras
            rows = experts_mlp(
                rows, weights, self.activation, between=drop, steps=steps
            )
        return restore(rows)

    def traits(self) -> set:
        """List the names in `ops.selection.TRAITS` that hold."""
        served = all(p.multiplies_rows for p in self.projections())
        return set() if served else {"quantised_experts"}

    def _mlp(self, rows, drop):
        """Compute the MLP by Keras' own layers, of four axes."""
        return self.down(drop(self.hidden(rows)))

    def hidden(self, slots):
        """Compute the hidden features of slots: (G,E,S,D) -> (G,E,S,F)."""
        hidden = self.up(slots)
        return self.gate(slots) * hidden if self.gated else hidden

    def projections(self):
        gate = (self.gate,) if self.gated else ()
        return self.up, self.down, *gate

    def enable_lora(self, rank, **options):
        if self.exchange is not None:
            raise ValueError(
                "enable_lora is not offered for experts that are spread over "
                f"processes; received the layer {self.path!r}."
            )
        for projection in self.projections():
            projection.enable_lora(rank, **options)

    def compute_output_shape(self, slots_shape):
        return (*slots_shape[:-1], self.output_dim or slots_shape[-1])


def _tensor(weight):
    """Value of a weight, autocast; `None` stays."""
    return None if weight is None else ops.convert_to_tensor(weight)


def by_expert(slots):
    """(G,E,S,D) -> the rows of each expert (E,G·S,D), and the way back.

    Rows (P,D) that are sorted by expert stay as they are.

    So that all between lies as the products leave it: an activation of what
    is strided takes PyTorch up to four times as long, and products of the
    four axes take JAX up to three times as long where experts have few slots
    (tests/benchmarks/results/soft_moe_layers-*.csv).
    """
    if len(slots.shape) == 2:
        return slots, lambda rows: rows
    _, experts, length, features = slots.shape
    length = ops.shape(slots)[2] if length is None else length
    rows = ops.reshape(
        ops.transpose(slots, (1, 0, 2, 3)), (experts, -1, features)
    )

    def restore(rows):
        rows = ops.reshape(rows, (experts, -1, length, rows.shape[-1]))
        return ops.transpose(rows, (1, 0, 2, 3))

    return rows, restore

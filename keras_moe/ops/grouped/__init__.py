"""Rows sorted by expert, one product for each expert's rows: `top_k` of E.

    tokens (G,T,D) -> rows (P,D), sorted by expert -> experts -> rows -> tokens

P = G·T·k pairs of a token and an expert of it. `bounds` (E+1,) says where each
expert's rows begin and end; rows behind the last bound are of masked tokens,
and the products set them to zero. How the products are computed is the
backend's: in the module of its name, or by tiles (`tiles.py`).
"""

import dataclasses
import importlib
from typing import Any

import keras
from keras import ops

from keras_moe import indexing
from keras_moe.ops.reference import Dispatcher
from keras_moe.scalars import scalar

backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def prepare(plan, dtype):
    """Sort the pairs by expert; on each device its own, if there are many."""
    if keras.distribution.distribution() is not None:
        from keras_moe.ops.grouped import jax_devices

        return jax_devices.prepare(plan, dtype)
    return GroupedDispatcher(plan, *backend.prepare(plan))


@dataclasses.dataclass(frozen=True, repr=False)
class GroupedDispatcher(Dispatcher):
    """Dispatcher with the pair of each row, the row of each pair, a product."""

    plan: Any
    order: Any
    places: Any
    multiply: Any

    def dispatch(self, tokens):
        """(G,T,D) -> (P,D): copy the token of each row."""
        flat = ops.reshape(tokens, (-1, tokens.shape[-1]))
        return backend.spread(flat, self.order, self.places, self._choices())

    def product(self, rows, kernels):
        """Multiply an expert's rows by its kernel: (P,D) · (E,D,F) -> (P,F)."""
        return self.multiply(rows, kernels)

    def shift(self, rows, biases):
        """Add its expert's bias to each row: (P,F) + (E,1,F)."""
        expert = ops.reshape(self.plan.expert, (1, -1))
        # Rows of masked tokens take some bias: their gates are zero.
        expert = ops.minimum(expert, scalar(self.plan.num_experts - 1, "int32"))
        expert = ops.take(expert, self.order, axis=1)
        # In 16 bits the gradient, a sum over rows, would stop growing.
        biases = ops.cast(biases[None, :, 0], indexing.wide(rows.dtype))
        return rows + ops.cast(indexing.take(biases, expert)[0], rows.dtype)

    def combine(self, rows):
        """(P,D) -> (G,T,D): add up, weighted, the rows of each token."""
        groups, length, choices = ops.shape(self.plan.gate)
        gate = ops.reshape(self.plan.gate, (-1, choices))
        gate = ops.cast(gate, rows.dtype)
        tokens = backend.combine(rows, gate, self.order, self.places)
        return ops.reshape(tokens, (groups, length, rows.shape[-1]))

    def restore(self, rows):
        """(P,D) -> (P,D): rows in the order of the pairs, where k is 1."""
        return backend.spread(rows, self.places, self.order, 1)

    def _choices(self):
        return self.plan.gate.shape[2]

"""Grouped products on JAX: what runs where, and rows by index.

`jax.lax.ragged_dot` is one kernel on TPUs alone; on other devices it is a
product with all kernels. CPUs loop over the tiles that exist
(`jax_products.py`), GPUs multiply all tiles at once (`tiles.py`).
"""

import functools

import jax
import jax.numpy as jnp

from keras_moe import indexing
from keras_moe.ops import selection
from keras_moe.ops.grouped import jax_made
from keras_moe.ops.grouped import jax_products
from keras_moe.ops.grouped import tiles
from keras_moe.ops.grouped.made import MadeKernels
from keras_moe.ops.jax_gradients import with_gradient


def prepare(plan):
    """Find the pair of each row, the row of each pair, the experts' product."""
    order, bounds = plan.by_expert()
    multiply = multiplier(bounds, order.shape[0], plan.num_experts, plan.gate)
    return order, indexing.inverse(order), multiply


def multiplier(bounds, rows, experts, array):
    """Choose the product of rows by experts for the device of the array."""
    device = selection.kind_of(array)
    if device == "cpu":
        return functools.partial(_on_cpu, bounds)
    multiply = tiles.prepare(bounds, rows, experts)
    if device == "tpu":
        multiply = functools.partial(_on_tpu, bounds, multiply)
    return multiply


def _on_cpu(bounds, rows, kernels):
    if isinstance(kernels, MadeKernels):
        return jax_made.product(rows, kernels, bounds)
    return jax_products.product(rows, kernels, bounds)


def _on_tpu(bounds, cut, rows, kernels):
    if isinstance(kernels, MadeKernels):
        return cut(rows, kernels)
    outputs = jax.lax.ragged_dot(rows, kernels, bounds[1:] - bounds[:-1])
    routed = jnp.arange(rows.shape[0], dtype=bounds.dtype) < bounds[-1]
    return jnp.where(routed[:, None], outputs, 0)


def spread(tokens, order, places, choices):
    """(N,D) -> (P,D): the token of each row."""
    return _spread((tokens,), (order // choices, _table(places, choices)))


def combine(rows, gate, order, places):
    """(P,D), (N,k) -> (N,D): the sum of the rows of each token, weighted."""
    weighted = rows * gate.reshape(-1)[order][:, None]
    return collect(weighted, order, places, gate.shape[1])


def collect(rows, order, places, choices):
    """(P,D) -> (N,D): the sum of the rows of each token."""
    return _collect((rows,), (order // choices, _table(places, choices)))


def _table(places, choices):
    return places.reshape(-1, choices)


def _take(arrays, context):
    return arrays[0][context[0]]


def _sum(arrays, context):
    table = context[1]
    # One array behind another: as a sum over an axis it takes five times as
    # long on CPUs.
    return sum(arrays[0][table[:, j]] for j in range(table.shape[1]))


def _spread_backward(arrays, context, saved, grad):
    return (_sum((grad,), context),)


def _collect_backward(arrays, context, saved, grad):
    return (_take((grad,), context),)


# Rows come once each, so that both gradients read by index, and none scatters.
_spread = with_gradient(
    _take, lambda *given: (_take(*given), ()), _spread_backward
)
_collect = with_gradient(
    _sum, lambda *given: (_sum(*given), ()), _collect_backward
)

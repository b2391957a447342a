"""Recomputation on JAX."""

import jax
from jax import numpy as jnp

from keras_moe.recomputation.order import behind


def checkpoint(function, values, tensors):
    """Call a function whose gradient keeps its arguments alone.

    Not by `jax.checkpoint`, whose second run may come early, see `behind`. So
    there is no forward mode.

    Args:
        function: `(values, tensors) -> (outputs, losses, moved)`; `moved` has
            new values by their index in `values`.
        values: of variables.
        tensors: further arguments.
    """
    # Traced once; arrays that the function has from elsewhere are arguments.
    traced, others = jax.closure_convert(function, values, tensors)

    @jax.custom_vjp
    def first(values, tensors, others):
        return traced(values, tensors, *others)

    def forward(values, tensors, others):
        results = traced(values, tensors, *others)
        return results, (values, tensors, others)

    def backward(kept, grads):
        values, tensors, others = kept
        floating = [
            grad
            for grad in jax.tree.leaves(grads)
            if jnp.issubdtype(grad.dtype, jnp.floating)
        ]
        values, tensors = behind(values, tensors, floating)
        _, transposed = jax.vjp(traced, values, tensors, *others)
        values, tensors, *others = transposed(grads)
        return values, tensors, others

    first.defvjp(forward, backward)
    return first(values, tensors, others)

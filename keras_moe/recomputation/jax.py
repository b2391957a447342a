"""Recomputation on JAX."""

import jax


def checkpoint(function, values, tensors):
    """Call a function whose gradient keeps its arguments alone.

    Args:
        function: `(values, tensors) -> (outputs, losses, moved)`; `moved` has
            new values by their index in `values`.
        values: of variables.
        tensors: further arguments.
    """
    return jax.checkpoint(function)(values, tensors)

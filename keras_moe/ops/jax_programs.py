"""Functions that are programs of their own where JAX calls them eagerly."""

import functools

import jax


def compiled(function, **options):
    """Compile a function where it is called by itself.

    Within another program it is a part of that, not one that JAX keeps for
    later calls: exporters put operations of their own in place of JAX's while
    they trace, and what was saved would run nowhere else.
    """
    program = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*arrays):
        leaves = jax.tree.leaves(arrays)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return (function if traced else program)(*arrays)

    return call

"""One exponential on JAX, in the form that suits the device's compiler."""

import jax
import jax.numpy as jnp

from keras_moe.ops.shared_exp import jax_accelerator
from keras_moe.ops.shared_exp import jax_cpu
from keras_moe.ops.shared_exp.limits import LIMIT


def can_branch():
    """Whether a program may decide on values which formulas it takes."""
    return True


def is_beyond(bound):
    """Whether logits within ±bound may be too large, a Boolean scalar."""
    return jnp.asarray(bound) > LIMIT


def on_cpu():
    """Whether programs are compiled for CPUs."""
    return jax.default_backend() == "cpu"


def form():
    """The module with the functions for where programs run.

    Gradients included, CPUs take up to .7 of the time with branches that hold
    P (7 turns at the sizes of tests/benchmarks/soft_routing.py); for TPUs the
    compiler's estimate is the other way round:
    tests/benchmarks/results/soft_routing_compiled-jax-*-tpu.csv.
    """
    return jax_cpu if on_cpu() else jax_accelerator


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""
    return form().exponentials(tokens, slots, mask, beyond)


def to_slots(tokens, values, over_tokens, logits):
    """(G,T,D), P, c -> (G,N,D)."""
    return form().mix(1, tokens, values, over_tokens, logits)


def to_tokens(slots, values, over_slots, logits):
    """(G,N,D), P, r -> (G,T,D)."""
    return form().mix(2, slots, values, over_slots, logits)

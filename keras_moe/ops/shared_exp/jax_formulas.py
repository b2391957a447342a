"""One exponential on JAX: formulas that the forms for CPUs and others share.

Letters: g groups, t tokens, n slots, d features.
"""

import jax.numpy as jnp

from keras_moe.ops.shared_exp.limits import MASKED

# For each axis of P: what sums over it, and the gradients of that with respect
# to what is summed and to P.
EQUATIONS = {
    1: ("gtn,gtd->gnd", "gtn,gnd->gtd", "gtd,gnd->gtn"),
    2: ("gtn,gnd->gtd", "gtn,gtd->gnd", "gnd,gtd->gtn"),
}


def masked_logits(tokens, slots, mask):
    """(G,T,D), (D,N), (G,T) -> L (G,T,N), for formulas that stay with it."""
    logits = jnp.einsum("gtd,dn->gtn", tokens, slots)
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, MASKED)
    return logits


def exponentials(tokens, slots, mask):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""
    values = jnp.exp(jnp.einsum("gtd,dn->gtn", tokens, slots))
    if mask is not None:
        values = jnp.where(mask[:, :, None], values, 0.0)
    sums = (values.sum(1), values.sum(2))
    # Zero only where all is masked; then so is what is divided by it.
    return values, *(s + (s == 0) for s in sums)


def by_logits(values, grad, by_tokens, by_slots):
    """L's gradient, from those of P, c and r."""
    return values * (grad + by_tokens[:, None] + by_slots[:, :, None])


def by_factors(logits, tokens, slots):
    """Gradients of tokens and slots, from that of L."""
    by_token = jnp.einsum("gtn,dn->gtd", logits, slots)
    by_slot = jnp.einsum("gtd,gtn->dn", tokens, logits)
    return by_token, by_slot


def weigh(axis, inputs, weights, einsum=jnp.einsum):
    """Sum `inputs` over this axis of the weights (G,T,N)."""
    return einsum(EQUATIONS[axis][0], weights.astype(inputs.dtype), inputs)


def mix(axis, inputs, values, sums, einsum=jnp.einsum):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    mixed = weigh(axis, inputs, values, einsum) / sums[:, :, None]
    return mixed.astype(inputs.dtype)


def by_mixed(axis, inputs, values, sums, outputs, grad, einsum=jnp.einsum):
    """Gradients of what `mix` takes, from that of its outputs."""
    _, back, outer = EQUATIONS[axis]
    scaled = grad / sums[:, :, None]
    rounded = scaled.astype(inputs.dtype)
    by_inputs = einsum(back, values.astype(inputs.dtype), rounded)
    by_values = jnp.einsum(outer, inputs, rounded).astype(values.dtype)
    return by_inputs, by_values, -(outputs * scaled).sum(-1)

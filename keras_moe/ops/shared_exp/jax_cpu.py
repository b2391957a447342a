"""One exponential on CPUs, with JAX: `custom_vjp` around `lax.cond`.

Letters: g groups, t tokens, n slots, d features. `beyond` is a Boolean scalar,
or `None` where the logits are known not to be; it has no gradient.
"""

import functools

import jax
import jax.numpy as jnp

from keras_moe.ops.shared_exp.limits import LOWEST
from keras_moe.ops.shared_exp.limits import MASKED


def either(beyond, stable, fast, *arrays):
    """Run `stable` beyond the limit, `fast` otherwise."""
    if beyond is None:
        return fast(*arrays)
    return jax.lax.cond(beyond, stable, fast, *arrays)


# === P and its sums ===


@jax.custom_vjp
def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""

    def fast(tokens, slots, mask):
        values = jnp.exp(jnp.einsum("gtd,dn->gtn", tokens, slots))
        if mask is not None:
            values = jnp.where(mask[:, :, None], values, 0.0)
        sums = (values.sum(1), values.sum(2))
        # Zero only where all is masked; then so is what is divided by it.
        return values, *(s + (s == 0) for s in sums)

    def stable(tokens, slots, mask):
        logits = jnp.einsum("gtd,dn->gtn", tokens, slots)
        if mask is not None:
            logits = jnp.where(mask[:, :, None], logits, MASKED)
        sums = (jax.nn.logsumexp(logits, axis=a) for a in (1, 2))
        return logits, *(jnp.maximum(s, LOWEST) for s in sums)

    return either(beyond, stable, fast, tokens, slots, mask)


def _exponentials_forward(tokens, slots, mask, beyond):
    outputs = exponentials(tokens, slots, mask, beyond)
    return outputs, (tokens, slots, beyond, outputs[0])


def _exponentials_backward(kept, grads):
    tokens, slots, beyond, values = kept
    grad, by_tokens, by_slots = grads

    def fast():
        return values * (grad + by_tokens[:, None] + by_slots[:, :, None])

    logits = either(beyond, lambda: grad, fast)
    by_token = jnp.einsum("gtn,dn->gtd", logits, slots)
    by_slot = jnp.einsum("gtd,gtn->dn", tokens, logits)
    return by_token, by_slot, None, None


exponentials.defvjp(_exponentials_forward, _exponentials_backward)


# === What P weighs ===


def mix(axis, inputs, values, sums, logits):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    return _mix(axis, inputs, values, sums, logits.beyond)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(axis, inputs, values, sums, beyond):
    forth, _, _ = EQUATIONS[axis]

    def fast():
        weights = values.astype(inputs.dtype)
        mixed = jnp.einsum(forth, weights, inputs)
        return (mixed / sums[:, :, None]).astype(inputs.dtype)

    def stable():
        weights = jnp.exp(values - jnp.expand_dims(sums, axis))
        return jnp.einsum(forth, weights.astype(inputs.dtype), inputs)

    return either(beyond, stable, fast)


EQUATIONS = {
    1: ("gtn,gtd->gnd", "gtn,gnd->gtd", "gtd,gnd->gtn"),
    2: ("gtn,gnd->gtd", "gtn,gtd->gnd", "gnd,gtd->gtn"),
}


def _mix_forward(axis, inputs, values, sums, beyond):
    outputs = _mix(axis, inputs, values, sums, beyond)
    return outputs, (inputs, values, sums, beyond, outputs)


def _mix_backward(axis, kept, grad):
    inputs, values, sums, beyond, outputs = kept
    _, back, outer = EQUATIONS[axis]

    def fast():
        scaled = grad / sums[:, :, None]
        rounded = scaled.astype(inputs.dtype)
        by_inputs = jnp.einsum(back, values.astype(inputs.dtype), rounded)
        by_values = jnp.einsum(outer, inputs, rounded).astype(values.dtype)
        return by_inputs, by_values, -(outputs * scaled).sum(-1)

    def stable():
        weights = jnp.exp(values - jnp.expand_dims(sums, axis))
        by_inputs = jnp.einsum(back, weights.astype(inputs.dtype), grad)
        by_values = jnp.einsum(outer, inputs, grad).astype(values.dtype)
        # All of the softmax's gradient; nothing is left to the sums.
        shared = (outputs.astype(sums.dtype) * grad).sum(-1)
        by_values = weights * (by_values - jnp.expand_dims(shared, axis))
        return by_inputs, by_values, jnp.zeros_like(sums)

    return (*either(beyond, stable, fast), None)


_mix.defvjp(_mix_forward, _mix_backward)

"""One exponential on accelerators: `lax.cond` around small results alone.

Letters: g groups, t tokens, n slots, d features. `beyond` is a Boolean scalar,
or `None` where the logits are known not to be; it has no gradient.

P never enters a branch: it would be written out as it is, and compilers could
not join its products with what is before and after them. So the formulas with
P always run, on logits that are zero beyond the limit, and a branch takes
their result or computes another one from the logits' factors.
"""

import functools

import jax
import jax.numpy as jnp

from keras_moe.ops.shared_exp.limits import MASKED

# === P and its sums ===


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""
    if beyond is not None:
        # Both factors' gradients are zero, too, when the logits are.
        slots = slots * jnp.where(beyond, 0.0, 1.0)
    return _exponentials(tokens, slots, mask)


@jax.custom_vjp
def _exponentials(tokens, slots, mask):
    values = jnp.exp(jnp.einsum("gtd,dn->gtn", tokens, slots))
    if mask is not None:
        values = jnp.where(mask[:, :, None], values, 0.0)
    sums = (values.sum(1), values.sum(2))
    # Zero only where all is masked; then so is what is divided by it.
    return values, *(s + (s == 0) for s in sums)


def _exponentials_forward(tokens, slots, mask):
    outputs = _exponentials(tokens, slots, mask)
    return outputs, (tokens, slots, outputs[0])


def _exponentials_backward(kept, grads):
    tokens, slots, values = kept
    grad, by_tokens, by_slots = grads
    logits = values * (grad + by_tokens[:, None] + by_slots[:, :, None])
    by_token = jnp.einsum("gtn,dn->gtd", logits, slots)
    by_slot = jnp.einsum("gtd,gtn->dn", tokens, logits)
    return by_token, by_slot, None


_exponentials.defvjp(_exponentials_forward, _exponentials_backward)


# === What P weighs ===


EQUATIONS = {
    1: ("gtn,gtd->gnd", "gtn,gnd->gtd", "gtd,gnd->gtn"),
    2: ("gtn,gnd->gtd", "gtn,gtd->gnd", "gnd,gtd->gtn"),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(axis, inputs, values, sums, logits):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    forth, _, _ = EQUATIONS[axis]
    mixed = jnp.einsum(forth, values.astype(inputs.dtype), inputs)
    outputs = (mixed / sums[:, :, None]).astype(inputs.dtype)
    if logits.beyond is None:
        return outputs
    return jax.lax.cond(
        logits.beyond,
        lambda: _by_softmax(axis, inputs, *logits[:3]),
        lambda: outputs,
    )


def _by_softmax(axis, inputs, tokens, slots, mask):
    """The same for logits of any size."""
    logits = jnp.einsum("gtd,dn->gtn", tokens, slots)
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis)
    if mask is not None:  # where all is masked, nothing weighs anything
        weights = jnp.where(mask[:, :, None], weights, 0.0)
    return jnp.einsum(EQUATIONS[axis][0], weights.astype(inputs.dtype), inputs)


def _mix_forward(axis, inputs, values, sums, logits):
    outputs = mix(axis, inputs, values, sums, logits)
    return outputs, (inputs, values, sums, logits, outputs)


def _mix_backward(axis, kept, grad):
    inputs, values, sums, logits, outputs = kept
    _, back, outer = EQUATIONS[axis]
    scaled = grad / sums[:, :, None]
    rounded = scaled.astype(inputs.dtype)
    by_inputs = jnp.einsum(back, values.astype(inputs.dtype), rounded)
    by_values = jnp.einsum(outer, inputs, rounded).astype(values.dtype)
    by_sums = -(outputs * scaled).sum(-1)
    factors = (logits.tokens, logits.slots)
    by_factors = (None, None)
    if logits.beyond is not None:

        def stable():
            def function(inputs, *factors):
                return _by_softmax(axis, inputs, *factors, logits.mask)

            return jax.vjp(function, inputs, *factors)[1](grad)

        by_inputs, *by_factors = jax.lax.cond(
            logits.beyond,
            stable,
            lambda: (by_inputs, *map(jnp.zeros_like, factors)),
        )
    by_logits = type(logits)(*by_factors, None, None)
    return by_inputs, by_values, by_sums, by_logits


mix.defvjp(_mix_forward, _mix_backward)

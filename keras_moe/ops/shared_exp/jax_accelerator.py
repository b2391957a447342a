"""One exponential on accelerators: `lax.cond` around small results alone.

`beyond` is a Boolean scalar, or `None` where the logits are known not to be; it
has no gradient.

P never enters a branch: it would be written out as it is, and compilers could
not join its products with what is before and after them. So the formulas with
P always run, on logits that are zero beyond the limit, and a branch takes
their result or computes another one from the logits' factors.
"""

import functools

import jax
import jax.numpy as jnp

from keras_moe.ops.shared_exp import jax_formulas

# === P and its sums ===


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""
    if beyond is not None:
        # Both factors' gradients are zero, too, when the logits are.
        slots = slots * jnp.where(beyond, 0.0, 1.0)
    return _exponentials(tokens, slots, mask)


_exponentials = jax.custom_vjp(jax_formulas.exponentials)


def _exponentials_forward(tokens, slots, mask):
    outputs = _exponentials(tokens, slots, mask)
    return outputs, (tokens, slots, outputs[0])


def _exponentials_backward(kept, grads):
    tokens, slots, values = kept
    logits = jax_formulas.by_logits(values, *grads)
    return (*jax_formulas.by_factors(logits, tokens, slots), None)


_exponentials.defvjp(_exponentials_forward, _exponentials_backward)


# === What P weighs ===


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(axis, inputs, values, sums, logits):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    outputs = jax_formulas.mix(axis, inputs, values, sums)
    if logits.beyond is None:
        return outputs
    return jax.lax.cond(
        logits.beyond,
        lambda: _by_softmax(axis, inputs, *logits[:3]),
        lambda: outputs,
    )


def _by_softmax(axis, inputs, tokens, slots, mask):
    """The same for logits of any size."""
    logits = jax_formulas.masked_logits(tokens, slots, mask)
    weights = jax.nn.softmax(logits, axis)
    if mask is not None:  # where all is masked, nothing weighs anything
        weights = jnp.where(mask[:, :, None], weights, 0.0)
    return jax_formulas.weigh(axis, inputs, weights)


def _mix_forward(axis, inputs, values, sums, logits):
    outputs = mix(axis, inputs, values, sums, logits)
    return outputs, (inputs, values, sums, logits, outputs)


def _mix_backward(axis, kept, grad):
    inputs, values, sums, logits, outputs = kept
    by_inputs, by_values, by_sums = jax_formulas.by_mixed(
        axis, inputs, values, sums, outputs, grad
    )
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

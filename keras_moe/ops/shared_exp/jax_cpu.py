"""One exponential on CPUs, with JAX: `custom_vjp` around `lax.cond`.

`beyond` is a Boolean scalar, or `None` where the logits are known not to be; it
has no gradient.
"""

import functools
import math

import jax
import jax.numpy as jnp

from keras_moe.ops.shared_exp import jax_formulas
from keras_moe.ops.shared_exp.limits import LOWEST

# A group's weights with so many entries are slow to multiply as the transposed
# first array of a product.
LARGE = 2**20


def einsum(equation, values, inputs):
    """`jnp.einsum`; of a large P it sums over tokens the other way round."""
    sizes = values.shape[1:]
    known = all(isinstance(size, int) for size in sizes)
    if equation != "gtn,gtd->gnd" or not known or math.prod(sizes) < LARGE:
        return jnp.einsum(equation, values, inputs)
    turned = jnp.einsum("gtd,gtn->gdn", inputs, values)
    # Without the barrier, the compiler turns the product back.
    return jax.lax.optimization_barrier(turned).swapaxes(1, 2)


def either(beyond, stable, fast, *arrays):
    """Run `stable` beyond the limit, `fast` otherwise."""
    if beyond is None:
        return fast(*arrays)
    return jax.lax.cond(beyond, stable, fast, *arrays)


# === P and its sums ===


@jax.custom_vjp
def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""

    def stable(*factors):
        logits = jax_formulas.masked_logits(*factors)
        sums = (jax.nn.logsumexp(logits, axis=a) for a in (1, 2))
        return logits, *(jnp.maximum(s, LOWEST) for s in sums)

    fast = jax_formulas.exponentials
    return either(beyond, stable, fast, tokens, slots, mask)


def _exponentials_forward(tokens, slots, mask, beyond):
    outputs = exponentials(tokens, slots, mask, beyond)
    return outputs, (tokens, slots, beyond, outputs[0])


def _exponentials_backward(kept, grads):
    tokens, slots, beyond, values = kept
    logits = either(
        beyond,
        lambda: grads[0],
        lambda: jax_formulas.by_logits(values, *grads),
    )
    return (*jax_formulas.by_factors(logits, tokens, slots), None, None)


exponentials.defvjp(_exponentials_forward, _exponentials_backward)


# === What P weighs ===


def mix(axis, inputs, values, sums, logits):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    return _mix(axis, inputs, values, sums, logits.beyond)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(axis, inputs, values, sums, beyond):
    def fast():
        return jax_formulas.mix(axis, inputs, values, sums, einsum)

    def stable():
        weights = jnp.exp(values - jnp.expand_dims(sums, axis))
        return jax_formulas.weigh(axis, inputs, weights, einsum)

    return either(beyond, stable, fast)


def _mix_forward(axis, inputs, values, sums, beyond):
    outputs = _mix(axis, inputs, values, sums, beyond)
    return outputs, (inputs, values, sums, beyond, outputs)


def _mix_backward(axis, kept, grad):
    inputs, values, sums, beyond, outputs = kept

    def fast():
        return jax_formulas.by_mixed(
            axis, inputs, values, sums, outputs, grad, einsum
        )

    def stable():
        _, back, outer = jax_formulas.EQUATIONS[axis]
        weights = jnp.exp(values - jnp.expand_dims(sums, axis))
        by_inputs = einsum(back, weights.astype(inputs.dtype), grad)
        by_values = jnp.einsum(outer, inputs, grad).astype(values.dtype)
        # All of the softmax's gradient; nothing is left to the sums.
        shared = (outputs.astype(sums.dtype) * grad).sum(-1)
        by_values = weights * (by_values - jnp.expand_dims(shared, axis))
        return by_inputs, by_values, jnp.zeros_like(sums)

    return (*either(beyond, stable, fast), None)


_mix.defvjp(_mix_forward, _mix_backward)

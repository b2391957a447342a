"""JAX's CPUs: gradients by hand around `lax.cond`, experts one by one.

Letters: g groups, t tokens, n slots, d features. `exceeds_limit` is a Boolean
scalar, or `None` where no logit does.
"""

import functools
import math
import types

import jax
import jax.numpy as jnp

from keras_moe.ops import cpu
from keras_moe.ops.jax_gradients import with_gradient

# A group's weights with so many entries are slow to multiply as the transposed
# first array of a product.
LARGE = 2**20
# Up to so many rows of an expert, gradients are quicker expert by expert.
FEW_ROWS = 32
# For each axis of P: what sums over it, and the gradients of that with respect
# to what is summed and to P.
EQUATIONS = {
    1: ("gtn,gtd->gnd", "gtn,gnd->gtd", "gtd,gnd->gtn"),
    2: ("gtn,gnd->gtd", "gtn,gtd->gnd", "gnd,gtd->gtn"),
}


def exceeds(scale, limit):
    """Tell whether logits may be too large for one exponential."""
    return jax.lax.stop_gradient(jnp.abs(scale)) > limit


def exponentials(tokens, slots, mask, exceeds_limit):
    """(G,T,D), (D,N), (G,T) -> P or L (G,T,N), its sums (G,N) and (G,T)."""
    return _exponentials((tokens, slots), (mask, exceeds_limit))


def dispatch(tokens, values, over_tokens, exceeds_limit):
    """(G,T,D), P or L, c -> (G,N,D)."""
    return _mix[1]((tokens, values, over_tokens), exceeds_limit)


def combine(slots, values, over_slots, exceeds_limit):
    """(G,N,D), P or L, r -> (G,T,D)."""
    return _mix[2]((slots, values, over_slots), exceeds_limit)


def branch(exceeds_limit, stable, fast, *arrays):
    """Run `stable` where logits exceed the limit, else `fast`."""
    if exceeds_limit is None:
        return fast(*arrays)
    # Anew each time: JAX keeps what it has traced, see `functions`.
    return jax.lax.cond(
        exceeds_limit, lambda *a: stable(*a), lambda *a: fast(*a), *arrays
    )


# === P and its sums ===


def _shared(tokens, slots, mask):
    values = jnp.exp(jnp.einsum("gtd,dn->gtn", tokens, slots))
    if mask is not None:
        values = jnp.where(mask[:, :, None], values, 0.0)
    sums = (values.sum(1), values.sum(2))
    # Zero only where all is masked; then so is what is divided by it.
    return values, *(s + (s == 0) for s in sums)


def _separate(tokens, slots, mask):
    logits = jnp.einsum("gtd,dn->gtn", tokens, slots)
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, cpu.MASKED)
    sums = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 2))
    return logits, *(jnp.maximum(s, cpu.LOWEST) for s in sums)


def _branching_exponentials(factors, context):
    mask, exceeds_limit = context
    return branch(exceeds_limit, _separate, _shared, *factors, mask)


def _exponentials_forward(factors, context):
    outputs = _branching_exponentials(factors, context)
    return outputs, outputs


def _exponentials_backward(factors, context, saved, grads):
    (tokens, slots), (_, exceeds_limit) = factors, context

    def fast():
        grad, by_tokens, by_slots = grads
        by_sums = by_tokens[:, None] + by_slots[:, :, None]
        return saved[0] * (grad + by_sums)

    def stable():
        values, over_tokens, over_slots = saved
        grad, by_tokens, by_slots = grads
        over_tokens, over_slots = over_tokens[:, None], over_slots[:, :, None]
        grad += jnp.exp(values - over_tokens) * by_tokens[:, None]
        return grad + jnp.exp(values - over_slots) * by_slots[:, :, None]

    logits = branch(exceeds_limit, stable, fast)
    by_token = jnp.einsum("gtn,dn->gtd", logits, slots)
    return by_token, jnp.einsum("gtd,gtn->dn", tokens, logits)


_exponentials = with_gradient(
    _branching_exponentials, _exponentials_forward, _exponentials_backward
)


# === What P weighs ===


def _einsum(equation, values, inputs):
    """`jnp.einsum`; of a large P it sums over tokens the other way round."""
    sizes = values.shape[1:]
    known = all(isinstance(size, int) for size in sizes)
    if equation != "gtn,gtd->gnd" or not known or math.prod(sizes) < LARGE:
        return jnp.einsum(equation, values, inputs)
    turned = jnp.einsum("gtd,gtn->gdn", inputs, values)
    # Without the barrier, the compiler turns the product back.
    return jax.lax.optimization_barrier(turned).swapaxes(1, 2)


def _weights(axis, values, sums):
    return jnp.exp(values - jnp.expand_dims(sums, axis))


def _by_shared(axis, inputs, values, sums, einsum=jnp.einsum):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    mixed = einsum(EQUATIONS[axis][0], values.astype(inputs.dtype), inputs)
    return (mixed / sums[:, :, None]).astype(inputs.dtype)


def _by_separate(axis, inputs, values, sums, einsum=jnp.einsum):
    weights = _weights(axis, values, sums).astype(inputs.dtype)
    return einsum(EQUATIONS[axis][0], weights, inputs)


def _branching_mix(axis, arrays, exceeds_limit):
    stable = functools.partial(_by_separate, axis)
    fast = functools.partial(_by_shared, axis)
    return branch(exceeds_limit, stable, fast, *arrays)


def _mix_forward(axis, arrays, exceeds_limit):
    stable, fast = (
        functools.partial(mix, axis, einsum=_einsum)
        for mix in (_by_separate, _by_shared)
    )
    outputs = branch(exceeds_limit, stable, fast, *arrays)
    return outputs, outputs


def _mix_backward(axis, arrays, exceeds_limit, outputs, grad):
    inputs, values, sums = arrays
    _, back, outer = EQUATIONS[axis]

    def fast():
        scaled = grad / sums[:, :, None]
        rounded = scaled.astype(inputs.dtype)
        by_inputs = _einsum(back, values.astype(inputs.dtype), rounded)
        by_values = jnp.einsum(outer, inputs, rounded).astype(values.dtype)
        return by_inputs, by_values, -(outputs * scaled).sum(-1)

    def stable():
        weights = _weights(axis, values, sums)
        by_inputs = _einsum(back, weights.astype(inputs.dtype), grad)
        by_values = jnp.einsum(outer, inputs, grad).astype(values.dtype)
        by_sums = -(outputs.astype(sums.dtype) * grad).sum(-1)
        return by_inputs, weights * by_values, by_sums

    return branch(exceeds_limit, stable, fast)


def _mix_of(axis):
    return with_gradient(
        functools.partial(_branching_mix, axis),
        functools.partial(_mix_forward, axis),
        functools.partial(_mix_backward, axis),
    )


_mix = {axis: _mix_of(axis) for axis in EQUATIONS}


# === Experts ===


def product(rows, kernels):
    """(E,N,D) · (E,D,F) -> (E,N,F); of few rows, gradients one by one."""
    # The number of rows is a symbol in programs that are exported.
    count = rows.shape[1]
    if isinstance(count, int) and count <= FEW_ROWS:
        return _product(rows, kernels)
    return rows @ kernels


@jax.custom_jvp
def _product(rows, kernels):
    return rows @ kernels


@_product.defjvp
@jax.jit
def _product_change(values, changes):
    rows, kernels = values
    # What is a loop in a change is one in the gradient.
    by_rows = _one_by_one(changes[0], kernels)
    return _product(rows, kernels), by_rows + rows @ changes[1]


def _one_by_one(rows, kernels):
    return jax.lax.map(_multiply, (rows, kernels))


def _multiply(pair):
    return pair[0] @ pair[1]


# === Programs ===

TRACED = types.SimpleNamespace(
    exceeds=exceeds,
    exponentials=exponentials,
    dispatch=dispatch,
    combine=combine,
    product=product,
)
EAGER = types.SimpleNamespace(
    **{name: jax.jit(function) for name, function in vars(TRACED).items()}
)


def functions(tokens):
    """Choose the functions above: compiled apart for arrays with values.

    Within another program they are a part of that, not one that JAX keeps for
    later calls: exporters put operations of their own in place of JAX's while
    they trace, and what was saved would run nowhere else.
    """
    return TRACED if isinstance(tokens, jax.core.Tracer) else EAGER

"""Streaming on JAX: a loop over groups, in it one over blocks of rows.

On a TPU, kernels instead (pallas.py).
"""

import jax
import jax.numpy as jnp

from keras_moe.ops.streaming.blocks import blocks


def on_tpu():
    """Whether programs are compiled for a TPU."""
    return jax.default_backend() == "tpu"


def to_slots(inputs, slots, tokens, mask):
    """(G,T,D), (N,D), (G,T,D), (G,T) -> (G,N,D)."""
    if on_tpu():
        from keras_moe.ops.streaming import pallas

        return pallas.attend(_each(slots, tokens), tokens, inputs, mask)

    def one(group):
        inputs, tokens, mask = group
        return _attend(slots, tokens, inputs, mask)

    return jax.lax.map(one, (inputs, tokens, mask))


def to_tokens(inputs, slots, tokens, mask):
    """(G,N,D), (N,D), (G,T,D), (G,T) -> (G,T,D)."""

    def one(group):
        inputs, tokens = group
        return _attend(tokens, slots, inputs, None)

    if on_tpu():
        from keras_moe.ops.streaming import pallas

        outputs = pallas.attend(tokens, _each(slots, tokens), inputs, None)
    else:
        outputs = jax.lax.map(one, (inputs, tokens))
    if mask is not None:
        outputs = jnp.where(mask[:, :, None], outputs, 0.0)
    return outputs


def _each(slots, tokens):
    """(N,D) -> (G,N,D), the same for each group."""
    return jnp.broadcast_to(slots, (len(tokens), *slots.shape))


def _attend(queries, keys, values, mask):
    """(Q,D), (K,D), (K,V), (K,) -> (Q,V)."""
    number, size = blocks(len(queries), len(keys))

    @jax.checkpoint  # the gradient computes the block again
    def block(rows):
        logits = rows @ keys.T
        if mask is not None:
            logits = jnp.where(mask, logits, -jnp.inf)
        # Where all is masked, the largest is -inf and the weights are zero.
        largest = jax.lax.stop_gradient(logits.max(1, keepdims=True))
        largest = jnp.maximum(largest, jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - largest)
        total = weights.sum(1, keepdims=True)
        total = total + (total == 0)
        mixed = weights.astype(values.dtype) @ values
        return (mixed / total).astype(values.dtype)

    if number == 1:
        return block(queries)
    padded = jnp.pad(queries, ((0, number * size - len(queries)), (0, 0)))
    outputs = jax.lax.map(block, padded.reshape(number, size, -1))
    return outputs.reshape(number * size, -1)[: len(queries)]

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


@jax.custom_vjp
def _attend(queries, keys, values, mask):
    """(Q,D), (K,D), (K,V), (K,) -> (Q,V)."""
    return _forward(queries, keys, values, mask)[0]


def _forward(queries, keys, values, mask):
    """Outputs, and what the gradient needs beside them: no weights."""

    def block(rows):
        logits = _logits(rows, keys, mask)
        # Where all is masked, the largest is -inf and the weights are zero.
        largest = logits.max(1, keepdims=True)
        largest = jnp.maximum(largest, jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - largest)
        total = weights.sum(1, keepdims=True)
        total = total + (total == 0)
        mixed = weights.astype(values.dtype) @ values
        outputs = (mixed / total).astype(values.dtype)
        return outputs, (largest + jnp.log(total))[:, 0]

    made = jax.lax.map(block, _cut(queries, keys))
    outputs, logsumexp = (_joined(x, len(queries)) for x in made)
    return outputs, (queries, keys, values, mask, outputs, logsumexp)


def _backward(kept, grad):
    """As weights · (their gradient - its mean), each block computed again."""
    queries, keys, values, mask, outputs, logsumexp = kept
    exact = logsumexp.dtype

    def block(sums, rows):
        by_keys, by_values = sums
        queries, grad, outputs, logsumexp = rows
        logits = _logits(queries, keys, mask)
        weights = jnp.exp(logits - logsumexp[:, None])
        mean = (grad.astype(exact) * outputs.astype(exact)).sum(1)
        by_weights = (grad @ values.T).astype(exact)
        by_logits = weights * (by_weights - mean[:, None])
        by_value = grad.T @ weights.astype(values.dtype)
        sums = by_keys + queries.T @ by_logits, by_values + by_value
        return sums, by_logits @ keys

    rows = tuple(_cut(x, keys) for x in (queries, grad, outputs, logsumexp))
    # Both sums are the other way round, (D,K) and (V,K), until all is added
    # up: CPUs are slow at products whose first array is large and transposed.
    sums = jnp.zeros_like(keys.T), jnp.zeros(values.shape[::-1], exact)
    (by_keys, by_values), by_queries = jax.lax.scan(block, sums, rows)
    by_queries = _joined(by_queries, len(queries))
    return by_queries, by_keys.T, by_values.T.astype(values.dtype), None


_attend.defvjp(_forward, _backward)


def _logits(queries, keys, mask):
    logits = queries @ keys.T
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def _cut(rows, keys):
    """(Q,…) -> (blocks,rows,…), filled up with zeros."""
    number, size = blocks(len(rows), len(keys))
    filled = ((0, number * size - len(rows)), *((0, 0),) * (rows.ndim - 1))
    return jnp.pad(rows, filled).reshape(number, size, *rows.shape[1:])


def _joined(rows, length):
    """The way back."""
    return rows.reshape(-1, *rows.shape[2:])[:length]

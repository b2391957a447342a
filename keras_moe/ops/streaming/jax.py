"""Streaming on JAX: a loop over blocks of rows, on CPUs group by group.

On a TPU, kernels instead (pallas.py).
"""

import jax
import jax.numpy as jnp

from keras_moe.ops import selection
from keras_moe.ops.jax_gradients import with_gradient
from keras_moe.ops.jax_programs import compiled
from keras_moe.ops.streaming.blocks import blocks


def dispatch(inputs, slots, tokens, mask):
    """(G,T,D), (N,D), (G,T,D), (G,T) -> (G,N,D)."""
    attend = attention_on(selection.kind_of(tokens))
    return attend((_each(slots, tokens), tokens, inputs), mask)


def combine(inputs, slots, tokens, mask):
    """(G,N,D), (N,D), (G,T,D), (G,T) -> (G,T,D)."""
    attend = attention_on(selection.kind_of(tokens))
    outputs = attend((tokens, _each(slots, tokens), inputs), None)
    if mask is not None:
        outputs = jnp.where(mask[:, :, None], outputs, 0.0)
    return outputs


def attention_on(kind):
    """Name the attention for a kind of device.

    Each takes ((G,Q,D), (G,K,D), (G,K,V)), (G,K) and returns (G,Q,V).
    """
    # Products of several groups are slow on CPUs, loops on everything else.
    return {"cpu": _one_by_one, "tpu": _by_kernels}.get(kind, _at_once)


def _each(slots, tokens):
    """(N,D) -> (G,N,D), the same for each group."""
    return jnp.broadcast_to(slots, (tokens.shape[0], *slots.shape))


@compiled
def _at_once(arrays, mask):
    return _together(arrays, mask)


@compiled
def _one_by_one(arrays, mask):
    return jax.lax.map(_one_group, (arrays, mask))


def _one_group(group):
    arrays, mask = jax.tree.map(lambda x: x[None], group)
    return _together(arrays, mask)[0]


# === Blocks of rows ===


def _block(rows, keys, values, mask):
    """Outputs and logsumexp of a block: (G,R,D) -> (G,R,V), (G,R)."""
    logits = _logits(rows, keys, mask)
    # Where all is masked, the largest is -inf and the weights are zero.
    largest = logits.max(2, keepdims=True)
    largest = jnp.maximum(largest, jnp.finfo(logits.dtype).min)
    largest = jax.lax.stop_gradient(largest)
    weights = jnp.exp(logits - largest)
    total = weights.sum(2, keepdims=True)
    total = total + (total == 0)
    mixed = jnp.einsum("gqk,gkv->gqv", weights.astype(values.dtype), values)
    outputs = (mixed / total).astype(values.dtype)
    return outputs, (largest + jnp.log(total))[..., 0]


def _by_blocks(arrays, mask):
    """Attend block by block; differentiated, each is computed again."""
    queries, keys, values = arrays
    block = jax.checkpoint(lambda rows: _block(rows, keys, values, mask))
    outputs = jax.lax.map(block, _cut(queries, keys))
    return tuple(_joined(x, queries.shape[1]) for x in outputs)


def _outputs(arrays, mask):
    return _by_blocks(arrays, mask)[0]


def _forward(arrays, mask):
    """Outputs, and what the gradient needs beside them: no weights."""
    outputs, logsumexp = _by_blocks(arrays, mask)
    return outputs, (outputs, logsumexp)


def _backward(arrays, mask, saved, grad):
    """As weights · (their gradient - its mean), each block computed again."""
    (queries, keys, values), (outputs, logsumexp) = arrays, saved
    exact = logsumexp.dtype

    def block(sums, rows):
        by_keys, by_values = sums
        queries, grad, outputs, logsumexp = rows
        logits = _logits(queries, keys, mask)
        weights = jnp.exp(logits - logsumexp[..., None])
        mean = (grad.astype(exact) * outputs.astype(exact)).sum(2)
        by_weights = jnp.einsum("gqv,gkv->gqk", grad, values).astype(exact)
        by_logits = weights * (by_weights - mean[..., None])
        by_values += jnp.einsum(
            "gqv,gqk->gvk", grad, weights.astype(values.dtype)
        )
        by_keys += jnp.einsum("gqd,gqk->gdk", queries, by_logits)
        by_queries = jnp.einsum("gqk,gkd->gqd", by_logits, keys)
        return (by_keys, by_values), by_queries

    rows = tuple(_cut(x, keys) for x in (queries, grad, outputs, logsumexp))
    # Both sums are the other way round, (D,K) and (V,K), until all is added
    # up: CPUs are slow at products whose first array is large and transposed.
    sums = (
        jnp.zeros_like(keys.swapaxes(1, 2)),
        jnp.zeros_like(values.swapaxes(1, 2), dtype=exact),
    )
    (by_keys, by_values), by_queries = jax.lax.scan(block, sums, rows)
    return (
        _joined(by_queries, queries.shape[1]),
        by_keys.swapaxes(1, 2),
        by_values.swapaxes(1, 2).astype(values.dtype),
    )


_together = with_gradient(_outputs, _forward, _backward)


def _logits(queries, keys, mask):
    logits = jnp.einsum("gqd,gkd->gqk", queries, keys)
    return (
        logits if mask is None else jnp.where(mask[:, None], logits, -jnp.inf)
    )


def _cut(rows, keys):
    """(G,Q,…) -> (blocks,G,rows,…), filled up with zeros."""
    groups, length, *rest = rows.shape
    number, size = blocks(length, groups * keys.shape[1])
    padding = ((0, 0), (0, number * size - length), *((0, 0),) * len(rest))
    cut = jnp.pad(rows, padding).reshape(groups, number, size, *rest)
    return cut.swapaxes(0, 1)


def _joined(rows, length):
    """Join what `_cut` has cut."""
    rows = rows.swapaxes(0, 1)
    return rows.reshape(rows.shape[0], -1, *rows.shape[3:])[:, :length]


# === Kernels for TPUs ===


def _kernels_forward(arrays, mask):
    from keras_moe.ops.streaming import pallas

    return jax.vjp(lambda *arrays: pallas.attend(*arrays, mask), *arrays)


def _kernels_backward(arrays, mask, transposed, grad):
    return transposed(grad)


_by_kernels = with_gradient(_outputs, _kernels_forward, _kernels_backward)

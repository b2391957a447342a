"""Streaming on TPUs: the flash attention kernels that come with JAX.

Forward and backward in blocks of 512 rows and 512 columns, 256 where vectors
are long. Compiled for TPU v5e and v6e and run in interpret mode; not run on a
TPU (tests/benchmarks/tpu_streaming.py).
"""

import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention

BLOCK = 512
# Beyond so many features, gradients in such blocks do not fit into the memory
# of a core (16 MiB).
FEATURES = 512
LANES = 128  # what features and short sequences are filled up to


def attend(queries, keys, values, mask):
    """(G,Q,D), (G,K,D), (G,K,D), (G,K) -> (G,Q,D), softmax over K.

    Logits are float32 and the kernels take one dtype.
    """
    groups, rows, features = queries.shape
    columns = keys.shape[1]
    by_row, by_column = _block(rows, features), _block(columns, features)
    if mask is None:
        mask = jnp.ones((groups, columns), bool)
    # Equal numbers attend to each other; what is filled up or masked has 0.
    segments = flash_attention.SegmentIds(
        jnp.ones((groups, -(-rows // by_row) * by_row), "int32"),
        _fill(mask.astype("int32"), 1, by_column),
    )
    queries = _fill(_fill(queries, 2, LANES), 1, by_row)
    keys, filled = (
        _fill(_fill(x, 2, LANES), 1, by_column)
        for x in (keys, values.astype(keys.dtype))
    )
    outputs = flash_attention.flash_attention(
        queries[:, None],
        keys[:, None],
        filled[:, None],
        segment_ids=segments,
        sm_scale=1.0,
        block_sizes=_sizes(by_row, by_column),
    )
    outputs = outputs[:, 0, :rows, :features].astype(values.dtype)
    # Where all is masked, the kernels take the mean of everything.
    return jnp.where(mask.any(1)[:, None, None], outputs, 0.0)


def _block(length, features):
    """512 or 256, or what covers a shorter sequence."""
    largest = BLOCK if features <= FEATURES else BLOCK // 2
    return min(largest, -(-length // LANES) * LANES)


def _fill(array, axis, multiple):
    """Append zeros up to a multiple."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return jnp.pad(array, widths)


def _sizes(rows, columns):
    return flash_attention.BlockSizes(
        block_q=rows,
        block_k_major=columns,
        block_k=columns,
        block_b=1,
        block_q_major_dkv=rows,
        block_k_major_dkv=columns,
        block_k_dkv=columns,
        block_q_dkv=rows,
        block_k_major_dq=columns,
        block_k_dq=columns,
        block_q_dq=rows,
    )

"""What Keras costs: the Soft MoE layer against the same formulas without Keras.

The formulas are written on the backend's own functions, in the layout that the
layer has its experts compute in; the layer runs `implementation="reference"`,
so that both do the same work. JAX and TensorFlow compile both, PyTorch neither.
"""

import functools
from types import SimpleNamespace

from tqdm import tqdm

from tests.benchmarks import soft_moe_layers
from tests.benchmarks import soft_routing
from tests.benchmarks import timing

OP = "Soft MoE layer, no fast path"
SIZES = ((2, 49, 8, 6), (16, 196, 28, 7), (4, 1024, 32, 32))


def rows():
    native = functools.partial(soft_moe, functions())
    for size in tqdm(SIZES, desc=timing.BACKEND):
        ours, arrays = soft_moe_layers.build(size, implementation="reference")
        both = {"native": native, "SoftMoE": ours}
        sizes = soft_routing.size_columns(size)
        yield from timing.compared(OP, sizes, both, arrays, turns=9)


def functions():
    """The backend's own, by one name on each of them."""
    if timing.BACKEND == "jax":
        import jax
        import jax.numpy as jnp

        softmax, library = jax.nn.softmax, jnp
        gelu = functools.partial(jax.nn.gelu, approximate=False)
        total = functools.partial(jnp.sum, keepdims=True)
    elif timing.BACKEND == "tensorflow":
        import tensorflow as tf

        softmax, gelu, library = tf.nn.softmax, tf.nn.gelu, tf
        total = functools.partial(tf.reduce_sum, keepdims=True)
    else:
        import torch

        softmax, library = torch.softmax, torch
        gelu = torch.nn.functional.gelu
        total = functools.partial(torch.sum, keepdim=True)
    return SimpleNamespace(
        softmax=softmax,
        gelu=gelu,
        total=total,
        sqrt=library.sqrt,
        einsum=library.einsum,
        matmul=library.matmul,
        reshape=library.reshape,
    )


def soft_moe(of, *arrays):
    """SoftMoE on functions `of` a backend, weights in the layer's order."""
    tokens, embeddings, scale, up, up_bias, down, down_bias = arrays
    unit = tokens / (of.sqrt(of.total(tokens * tokens, -1)) + 1e-6)
    lengths = of.sqrt(of.total(embeddings * embeddings, 0))
    logits = of.einsum(
        "gtd,des->gtes", unit, scale * embeddings / (lengths + 1e-6)
    )
    groups, length, experts, slots_per_expert = logits.shape
    dispatch = of.softmax(logits, 1)
    flat = of.reshape(logits, (groups, length, experts * slots_per_expert))
    combine = of.reshape(of.softmax(flat, -1), logits.shape)
    slots = of.einsum("gtes,gtd->egsd", dispatch, tokens)
    rows = of.reshape(
        slots, (experts, groups * slots_per_expert, tokens.shape[-1])
    )
    hidden = of.gelu(of.matmul(rows, up) + up_bias)
    outputs = of.matmul(hidden, down) + down_bias
    outputs = of.reshape(
        outputs, (experts, groups, slots_per_expert, tokens.shape[-1])
    )
    return of.einsum("gtes,egsd->gtd", combine, outputs)

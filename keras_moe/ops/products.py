"""What each expert does to its rows, as it is quickest on a backend.

    product:            rows · K      (E,N,D) · (E,D,F) -> (E,N,F)
    rows' gradient:     G · Kᵀ        (E,N,F) · (E,F,D) -> (E,N,D)
    kernels' gradient:  rowsᵀ · G     (E,D,N) · (E,N,F) -> (E,D,F)

Compilers are slow at the rows' gradient where experts have few rows. It is told
in another way there: on TensorFlow as (K · Gᵀ)ᵀ, and with JAX on CPUs one
expert after another. Outside training JAX on CPUs also takes experts with many
rows in turn, so that what lies between two products stays in a cache, and so
does PyTorch, some experts at a time, where that is large.

The times are in tests/benchmarks/results/soft_moe_layers-*.csv.
"""

import keras

from keras_moe.ops import gelu
from keras_moe.ops import one_pass
from keras_moe.ops import shared_exp

BACKEND = keras.backend.backend()
# Up to so many rows of an expert, JAX on CPUs is quicker at gradients expert by
# expert, and beyond it at outputs.
FEW_ROWS = 32
# PyTorch on CPUs takes experts whose hidden features fill so many bytes some at
# a time; of a single expert they may be more.
LARGE, AT_A_TIME = 2**24, 2**22


def project(rows, weights, activation):
    """(E,N,D), a kernel (E,D,F) and perhaps a bias (E,1,F) -> (E,N,F)."""
    kernel, bias = weights
    if BACKEND == "torch" and bias is not None:
        import torch

        # Added as it is multiplied: a sum of its own takes other memory.
        return activation(torch.baddbmm(bias, rows, kernel))
    outputs = of_experts(rows, kernel)
    if activation is keras.activations.linear:
        return outputs if bias is None else outputs + bias
    with one_pass.wanted(outputs.dtype):
        if bias is not None:
            # Not `ops.add`, which on TensorFlow takes (E,1,1) for the bias of
            # the second axis where that is as long.
            outputs = outputs + bias
        return gelu.quickest(activation)(outputs)


def of_experts(rows, kernels):
    """Multiply the rows of each expert with its kernel."""
    if BACKEND == "tensorflow":
        return _turned(rows, kernels)
    if _jax_on_cpu() and _few(rows):
        return _one_by_one(rows, kernels)
    return rows @ kernels  # `ops.matmul` may round float64 to float32


def in_turn(function, rows, weights, hidden):
    """`function(rows, weights)` of one expert after another, where it pays.

    The first axis of all arrays is that of experts: of `rows`, of those in the
    structure `weights`, and of what the function returns, whose shape and
    dtype are those of `rows`. Each row has `hidden` features in between.
    """
    if _jax_on_cpu() and not _few(rows):
        return _mapped(function, rows, weights)
    if _torch_without_gradients(rows):
        of_one = rows.shape[1] * hidden * rows.element_size()
        if rows.shape[0] * of_one >= LARGE:
            together = max(1, AT_A_TIME // of_one)
            return _some_at_a_time(function, rows, weights, together)
    return function(rows, weights)


def _few(rows):
    # The number of rows is a symbol in programs that are exported.
    count = rows.shape[1]
    return isinstance(count, int) and count <= FEW_ROWS


def _jax_on_cpu():
    return BACKEND == "jax" and shared_exp.room.on_cpu()


def _torch_without_gradients(rows):
    # Gradients keep what lies between the products anyway, and a program that
    # is traced would have every turn in it.
    if BACKEND != "torch" or not shared_exp.room.can_branch():
        return False
    import torch

    return rows.is_cpu and not torch.is_grad_enabled()


def _turned(rows, kernels):
    import tensorflow as tf

    @tf.custom_gradient
    def product(rows, kernels):
        def backward(grad):
            turned = tf.matmul(kernels, tf.linalg.matrix_transpose(grad))
            by_rows = tf.linalg.matrix_transpose(turned)
            return by_rows, tf.matmul(rows, grad, transpose_a=True)

        return tf.matmul(rows, kernels), backward

    # Variables themselves would be taken for something the function hides.
    return product(rows, tf.convert_to_tensor(kernels))


def _one_by_one(rows, kernels):
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def product(rows, kernels):
        return jnp.matmul(rows, kernels)

    @product.defjvp
    def change(values, changes):
        rows, kernels = values
        # What is a loop in a change is one in the gradient.
        pairs = changes[0], kernels
        by_rows = jax.lax.map(lambda pair: jnp.matmul(*pair), pairs)
        return product(rows, kernels), by_rows + rows @ changes[1]

    return product(rows, kernels)


def _mapped(function, rows, weights):
    import jax

    @jax.custom_jvp
    def outputs(rows, weights):
        def one(arrays):
            return function(*jax.tree.map(lambda a: a[None], arrays))[0]

        return jax.lax.map(one, (rows, weights))

    @outputs.defjvp
    def change(values, changes):
        return jax.jvp(function, values, changes)

    return outputs(rows, weights)


def _some_at_a_time(function, rows, weights, together):
    import torch

    outputs = torch.empty_like(rows)
    for start in range(0, rows.shape[0], together):
        some = slice(start, start + together)
        outputs[some] = function(rows[some], _of_some(weights, some))
    return outputs


def _of_some(weights, some):
    return keras.tree.map_structure(
        lambda array: None if array is None else array[some], weights
    )

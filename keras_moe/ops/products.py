"""Each expert's own product: (E,N,D) · (E,D,F) -> (E,N,F).

    rows' gradient:     G · Kᵀ        (E,N,D)
    kernels' gradient:  rowsᵀ · G     (E,D,F)

where G (E,N,F) is the outputs' gradient. Compilers are slow at the first of
them where experts have few rows, so it is written by hand: on TensorFlow as
(K · Gᵀ)ᵀ, and with JAX on CPUs one expert after another, up to `FEW_ROWS`.
Whole layers' gradients take .5 to .8 of the time then
(tests/benchmarks/results/soft_moe_layers-*.csv). PyTorch's are quick as they
are.
"""

import keras
from keras import ops

# Up to so many rows of an expert, batched products of JAX on CPUs are slower
# than a loop: the time of both is .6 at 4 rows, .75 at 16, .95 at 32.
FEW_ROWS = 32


def of_experts(rows, kernels):
    """Multiply the rows of each expert with its kernel."""
    kernels = ops.convert_to_tensor(kernels)  # as autocasting leaves them
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow(rows, kernels)
    if backend == "jax" and _few(rows):
        return _one_by_one(rows, kernels)
    return ops.matmul(rows, kernels)


def _few(rows):
    from keras_moe.ops.shared_exp.jax import on_cpu

    # The number of rows is a symbol in programs that are exported.
    count = rows.shape[1]
    return isinstance(count, int) and count <= FEW_ROWS and on_cpu()


def _tensorflow(rows, kernels):
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

    @jax.custom_vjp
    def product(rows, kernels):
        return jnp.matmul(rows, kernels)

    def forward(rows, kernels):
        return product(rows, kernels), (rows, kernels)

    def backward(kept, grad):
        rows, kernels = kept
        by_rows = jax.lax.map(lambda one: one[0] @ one[1].T, (grad, kernels))
        return by_rows, jnp.matmul(jnp.swapaxes(rows, 1, 2), grad)

    product.defvjp(forward, backward)
    return product(rows, kernels)

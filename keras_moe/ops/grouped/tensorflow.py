"""Grouped products on TensorFlow: rows split by expert, or tiles in XLA.

The number of an expert's rows is known at run time alone, which XLA does not
take. Gradients are written as products of the same kind, so that those of
higher order are too.
"""

import functools

import tensorflow as tf
from keras import ops
from tensorflow.python.ops import control_flow_util

from keras_moe import indexing
from keras_moe.ops.grouped import tiles
from keras_moe.ops.grouped.made import MadeKernels


def prepare(plan):
    """Find the pair of each row, the row of each pair, the experts' product."""
    order, bounds = plan.by_expert()
    experts = plan.num_experts
    if _in_xla():
        multiply = tiles.prepare(bounds, ops.shape(order)[0], experts)
    else:
        # OpenVINO replaces the shape of `order` by a wrong constant.
        rows = tf.reduce_sum(tf.ones_like(order))
        # The rows of no expert are the last part.
        counts = tf.concat([bounds, rows[None]], 0)
        counts = counts[1:] - counts[:-1]
        multiply = functools.partial(product, counts=counts, experts=experts)
    return order, indexing.inverse(order), multiply


def _in_xla():
    """Tell whether XLA will compile the program that is being traced."""
    if tf.executing_eagerly():
        return False
    # TensorFlow has no public question for it.
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def _plain(*arrays):
    """Tensors: no variables, which a function with a gradient of its own would
    have to name, and no gradients kept as slices."""
    return [tf.convert_to_tensor(array) for array in arrays]


def product(rows, kernels, counts, experts, turned=False):
    """Multiply the rows of each expert by its kernel, or by that turned."""
    if isinstance(kernels, MadeKernels):
        return made_product(rows, kernels, counts, turned)

    @tf.custom_gradient
    def call(rows, kernels):
        parts = tf.split(rows, counts, num=experts + 1)
        products = [
            tf.matmul(part, kernel, transpose_b=turned)
            for part, kernel in zip(parts, tf.unstack(kernels))
        ]
        features = kernels.shape[1 if turned else 2]
        zeros = tf.zeros((tf.shape(parts[-1])[0], features), rows.dtype)
        products.append(zeros)
        outputs = tf.concat(products, 0)

        def backward(grad):
            by_rows = product(grad, kernels, counts, experts, not turned)
            pair = (grad, rows) if turned else (rows, grad)
            return by_rows, outer(*pair, counts, experts)

        return outputs, backward

    return call(*_plain(rows, kernels))


def made_product(rows, kernels, counts, turned=False):
    """The same for `MadeKernels`, in a loop over the experts that have rows."""
    features = kernels.shape[1 if turned else 2]

    @tf.custom_gradient
    def call(rows):
        ends = tf.cumsum(counts)
        present = tf.cast(tf.where(counts[:-1] > 0)[:, 0], "int32")
        number = tf.size(present)
        parts = tf.TensorArray(
            rows.dtype,
            number + 1,
            infer_shape=False,
            element_shape=(None, features),
        )

        def segment(turn, parts):
            expert = present[turn]
            end = ends[expert]
            own = rows[end - counts[expert] : end]
            made = kernels.multiply(own, expert, turned)
            return turn + 1, parts.write(turn, made)

        _, parts = tf.while_loop(
            lambda turn, parts: turn < number, segment, (0, parts)
        )
        rest = tf.zeros((counts[-1], features), rows.dtype)
        outputs = parts.write(number, rest).concat()
        return outputs, lambda grad: made_product(
            grad, kernels, counts, not turned
        )

    return call(*_plain(rows))


def outer(first, second, counts, experts):
    """(P,D), (P,F) -> (E,D,F): the sum of outer products of each expert."""

    @tf.custom_gradient
    def call(first, second):
        pairs = zip(
            tf.split(first, counts, num=experts + 1)[:-1],
            tf.split(second, counts, num=experts + 1)[:-1],
        )
        outputs = tf.stack(
            [tf.matmul(a, b, transpose_a=True) for a, b in pairs]
        )

        def backward(grad):
            return (
                product(second, grad, counts, experts, True),
                product(first, grad, counts, experts),
            )

        return outputs, backward

    return call(*_plain(first, second))


def spread(tokens, order, places, choices):
    """(N,D) -> (P,D): the token of each row."""

    @tf.custom_gradient
    def call(tokens):
        rows = tf.gather(tokens, order // choices)
        return rows, lambda grad: collect(grad, order, places, choices)

    return call(*_plain(tokens))


def combine(rows, gate, order, places):
    """(P,D), (N,k) -> (N,D): the sum of the rows of each token, weighted."""
    weighted = rows * tf.gather(tf.reshape(gate, (-1,)), order)[:, None]
    return collect(weighted, order, places, gate.shape[1])


def collect(rows, order, places, choices):
    """(P,D) -> (N,D): the sum of the rows of each token."""

    @tf.custom_gradient
    def call(rows):
        tokens = tf.gather(rows, places)
        tokens = tf.reshape(tokens, (-1, choices, rows.shape[-1]))
        tokens = tf.reduce_sum(tokens, 1)
        return tokens, lambda grad: spread(grad, order, places, choices)

    return call(*_plain(rows))

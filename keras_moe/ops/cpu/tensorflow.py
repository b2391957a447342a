"""TensorFlow's CPUs: gradients by hand around `tf.cond`, steps in one pass.

Letters: g groups, t tokens, n slots, d features. `exceeds_limit` is a Boolean
scalar, or `None` where no logit does. Higher derivatives are those of the
gradients as they stand.
"""

import contextlib
import math
import types

import tensorflow as tf

from keras_moe.ops import cpu
from keras_moe.ops.experts import gelu_of_erf


def one_pass(array):
    """Make a context whose steps XLA is asked to compile as one, on float32.

    Of narrower types, one pass would round less often than the steps do.
    Exported programs may ignore it.
    """
    if tf.executing_eagerly() or array.dtype != tf.float32:
        return contextlib.nullcontext()
    return tf.xla.experimental.jit_scope()


def exceeds(scale, limit):
    """Tell whether logits may be too large for one exponential."""
    return tf.abs(tf.stop_gradient(scale)) > limit


def branch(exceeds_limit, stable, fast):
    """Run `stable` where logits exceed the limit, else `fast`."""
    if exceeds_limit is None:
        return fast()
    return tf.cond(exceeds_limit, stable, fast)


def exponentials(tokens, slots, mask, exceeds_limit):
    """(G,T,D), (D,N), (G,T) -> P or L (G,T,N), its sums (G,N) and (G,T)."""
    rows = tf.reshape(tokens, (-1, tokens.shape[-1]))
    seen = None if mask is None else mask[:, :, None]
    shape = (-1, tf.shape(tokens)[1], slots.shape[1])

    @tf.custom_gradient
    def outputs_and_gradient(rows, slots):
        # Products of two axes: TensorFlow is slow at large ones of three.
        logits = tf.reshape(rows @ slots, shape)

        def fast():
            with one_pass(logits):
                values = tf.exp(logits)
                if seen is not None:
                    values = tf.where(seen, values, 0.0)
                sums = (tf.reduce_sum(values, axis) for axis in (1, 2))
                # Zero only where all is masked; so is what it divides.
                return values, *(tf.where(s == 0, 1.0, s) for s in sums)

        def stable():
            values = logits
            if seen is not None:
                values = tf.where(seen, values, cpu.MASKED)
            sums = (tf.reduce_logsumexp(values, axis) for axis in (1, 2))
            return values, *(tf.maximum(s, cpu.LOWEST) for s in sums)

        outputs = branch(exceeds_limit, stable, fast)
        values, over_tokens, over_slots = outputs

        def backward(grad, by_tokens, by_slots):
            by_tokens, by_slots = by_tokens[:, None], by_slots[:, :, None]

            def fast():
                with one_pass(values):
                    return values * (grad + by_tokens + by_slots)

            def stable():
                columns = tf.exp(values - over_tokens[:, None]) * by_tokens
                lines = tf.exp(values - over_slots[:, :, None]) * by_slots
                return grad + columns + lines

            logits = branch(exceeds_limit, stable, fast)
            logits = tf.reshape(logits, (-1, slots.shape[1]))
            by_rows = tf.matmul(logits, slots, transpose_b=True)
            return by_rows, tf.matmul(rows, logits, transpose_a=True)

        return outputs, backward

    return outputs_and_gradient(rows, slots)


def dispatch(tokens, values, over_tokens, exceeds_limit):
    """(G,T,D), P or L, c -> (G,N,D)."""
    return _mix(1, tokens, values, over_tokens, exceeds_limit)


def combine(slots, values, over_slots, exceeds_limit):
    """(G,N,D), P or L, r -> (G,T,D)."""
    return _mix(2, slots, values, over_slots, exceeds_limit)


def _mix(axis, inputs, values, sums, exceeds_limit):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    dtype, exact = inputs.dtype, sums.dtype

    def product(weights, inputs, turned):
        weights = tf.cast(weights, inputs.dtype)
        return tf.matmul(weights, inputs, transpose_a=turned)

    @tf.custom_gradient
    def outputs_and_gradient(inputs, values, sums):
        def weights():
            return tf.exp(values - tf.expand_dims(sums, axis))

        def fast():
            mixed = product(values, inputs, axis == 1)
            return tf.cast(tf.cast(mixed, exact) / sums[:, :, None], dtype)

        def stable():
            return product(weights(), inputs, axis == 1)

        outputs = branch(exceeds_limit, stable, fast)

        def backward(grad):
            def shares(weights, grad):
                by_sums = tf.cast(outputs, exact) * grad
                grad = tf.cast(grad, dtype)
                pair = (inputs, grad) if axis == 1 else (grad, inputs)
                by_values = tf.matmul(*pair, transpose_b=True)
                return (
                    product(weights, grad, axis == 2),
                    tf.cast(by_values, exact),
                    -tf.reduce_sum(by_sums, -1),
                )

            grad = tf.cast(grad, exact)

            def fast():
                return shares(values, grad / sums[:, :, None])

            def stable():
                own = weights()
                by_inputs, by_values, by_sums = shares(own, grad)
                return by_inputs, own * by_values, by_sums

            return branch(exceeds_limit, stable, fast)

        return outputs, backward

    return outputs_and_gradient(inputs, values, sums)


# === Experts ===


def activate(activation, features):
    """Apply the activation to hidden features; exact GELU in one pass.

    gelu(x) = x · Φ(x) and gelu'(x) = Φ(x) + x · φ(x), with Φ and φ of the
    normal distribution.
    """
    if activation is not gelu_of_erf:
        return activation(features)
    return _gelu(features)


@tf.custom_gradient
def _gelu(x):
    with one_pass(x):
        outputs = gelu_of_erf(x)

    def backward(grad):
        with one_pass(x):
            cumulated = 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))
            density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
            return grad * (cumulated + x * density)

    return outputs, backward


# === By name ===

_FUNCTIONS = types.SimpleNamespace(
    exceeds=exceeds,
    exponentials=exponentials,
    dispatch=dispatch,
    combine=combine,
    activate=activate,
)


def functions(tokens):
    """Return the functions above."""
    return _FUNCTIONS

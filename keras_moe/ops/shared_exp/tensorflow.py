"""One exponential on TensorFlow: `custom_gradient` around `tf.cond`.

Letters: g groups, t tokens, n slots, d features. `beyond` is a Boolean scalar,
or `None` where the logits are known not to be; it has no gradient.
"""

import tensorflow as tf

from keras_moe.ops import one_pass
from keras_moe.ops.shared_exp.limits import LIMIT
from keras_moe.ops.shared_exp.limits import LOWEST
from keras_moe.ops.shared_exp.limits import MASKED


def can_branch():
    """Whether a program may decide on values which formulas it takes."""
    return True


def is_beyond(bound):
    """Whether logits within ±bound may be too large, a Boolean scalar."""
    return tf.convert_to_tensor(bound) > LIMIT


def either(beyond, stable, fast):
    """Run `stable` beyond the limit, `fast` otherwise."""
    return fast() if beyond is None else tf.cond(beyond, stable, fast)


def exponentials(tokens, slots, mask, beyond):
    """(G,T,D), (D,N), (G,T) -> P (G,T,N), its sums c (G,N) and r (G,T)."""

    @tf.custom_gradient
    def outputs_and_gradient(tokens, slots):
        def products():
            return tf.einsum("gtd,dn->gtn", tokens, slots)

        def fast():
            logits = products()
            with one_pass.wanted(logits.dtype):
                values = tf.exp(logits)
                if mask is not None:
                    values = tf.where(mask[:, :, None], values, 0.0)
                sums = (tf.reduce_sum(values, a) for a in (1, 2))
                # Zero only where all is masked; so is what is divided by it.
                return values, *(tf.where(s == 0, 1.0, s) for s in sums)

        def stable():
            logits = products()
            if mask is not None:
                logits = tf.where(mask[:, :, None], logits, MASKED)
            sums = (tf.reduce_logsumexp(logits, a) for a in (1, 2))
            return logits, *(tf.maximum(s, LOWEST) for s in sums)

        values, over_tokens, over_slots = either(beyond, stable, fast)

        def backward(grad, by_tokens, by_slots):
            def fast():
                by_sums = by_tokens[:, None] + by_slots[:, :, None]
                return values * (grad + by_sums)

            logits = either(beyond, lambda: grad, fast)
            by_token = tf.einsum("gtn,dn->gtd", logits, slots)
            by_slot = tf.einsum("gtd,gtn->dn", tokens, logits)
            return by_token, by_slot

        return (values, over_tokens, over_slots), backward

    return outputs_and_gradient(tokens, slots)


def to_slots(tokens, values, over_tokens, logits):
    """(G,T,D), P, c -> (G,N,D)."""
    return _mix(1, tokens, values, over_tokens, logits.beyond)


def to_tokens(slots, values, over_slots, logits):
    """(G,N,D), P, r -> (G,T,D)."""
    return _mix(2, slots, values, over_slots, logits.beyond)


def _mix(axis, inputs, values, sums, beyond):
    """Sum `inputs` over this axis of P, weighed by P over its sums."""
    dtype = inputs.dtype
    forth = axis == 1

    @tf.custom_gradient
    def outputs_and_gradient(inputs, values, sums):
        def weights():
            return tf.exp(values - tf.expand_dims(sums, axis))

        def product(weights, inputs, transposed):
            weights = tf.cast(weights, dtype)
            return tf.matmul(weights, inputs, transpose_a=transposed)

        def fast():
            mixed = product(values, inputs, forth)
            mixed = tf.cast(mixed, sums.dtype) / sums[:, :, None]
            return tf.cast(mixed, dtype)

        def stable():
            return product(weights(), inputs, forth)

        outputs = either(beyond, stable, fast)

        def outer(grad):
            pair = (inputs, grad) if forth else (grad, inputs)
            return tf.cast(tf.matmul(*pair, transpose_b=True), values.dtype)

        def backward(grad):
            def fast():
                scaled = tf.cast(grad, sums.dtype) / sums[:, :, None]
                rounded = tf.cast(scaled, dtype)
                by_sums = tf.cast(outputs, sums.dtype) * scaled
                return (
                    product(values, rounded, not forth),
                    outer(rounded),
                    -tf.reduce_sum(by_sums, -1),
                )

            def stable():
                exact = (tf.cast(x, sums.dtype) for x in (outputs, grad))
                shared = tf.reduce_sum(tf.multiply(*exact), -1)
                shared = tf.expand_dims(shared, axis)
                # All of the softmax's gradient; nothing is left to the sums.
                return (
                    product(weights(), grad, not forth),
                    weights() * (outer(grad) - shared),
                    tf.zeros_like(sums),
                )

            return either(beyond, stable, fast)

        return outputs, backward

    return outputs_and_gradient(inputs, values, sums)

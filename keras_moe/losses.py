"""Auxiliary losses of token choice, and the loss of pairs of two towers.

The auxiliary losses are functions of logits or gates. Each returns the mean
over groups of one scalar per group. A masked token counts nowhere, NaN
included. A group without tokens gives zero, and a batch without groups too.
Axes as in `keras_moe.routing`.
"""

import math

from keras import ops

from keras_moe.contrastive import contrastive_loss
from keras_moe.scalars import keep
from keras_moe.scalars import scalar

__all__ = [
    "balance_loss",
    "contrastive_loss",
    "importance_loss",
    "load_loss",
    "z_loss",
]


def importance_loss(gates, mask=None):
    """Squared coefficient of variation of the experts' gate sums.

    (std / mean)² over experts of sum_t gates[g,t,e], population standard
    deviation (arXiv 2106.05974, appendix A; vmoe/nn/routing.py).

    Args:
        gates: float32 (G,T,E), the softmax of the noise-free logits.
        mask: `None` or Boolean (G,T).
    """
    return _variation(_token_mean(gates, mask))


def load_loss(logits, noisy_logits, noise_std, top_k, mask=None):
    """Squared coefficient of variation of the experts' expected load.

    The load of an expert is the mean over tokens of the chance that, with its
    own noise drawn again, its logit reaches the token's k-th largest noisy one
    (arXiv 2106.05974, appendix A; vmoe/nn/routing.py).

    Args:
        logits: float32 (G,T,E), without noise.
        noisy_logits: float32 (G,T,E), what was routed on.
        noise_std: standard deviation of the noise on a logit.
        top_k: k.
        mask: `None` or Boolean (G,T).
    """
    logits, noisy_logits = _seen(logits, mask), _seen(noisy_logits, mask)
    order = ops.argsort(-ops.stop_gradient(noisy_logits), axis=-1)
    threshold = ops.take_along_axis(
        noisy_logits, order[:, :, top_k - 1 : top_k], axis=2
    )  # (G,T,1)
    needed = (threshold - logits) / noise_std
    chance = 0.5 * (1.0 - ops.erf(needed / math.sqrt(2.0)))  # (G,T,E)
    return _variation(_token_mean(chance, mask))


def balance_loss(gates, mask=None, expert=None):
    """E · sum_e (share of the choices that are e) · (mean gate of e).

    The loss of GShard (arXiv 2006.16668, algorithm 1) and of Switch counts
    first choices; Mixtral's and Qwen's count all k choices of a token.
    Gradients pass through the mean gate. Balanced loads give 1, where a
    token's gates sum to one. vmoe/nn/routing.py calls it gshard.

    Args:
        gates: float32 (G,T,E).
        mask: `None` or Boolean (G,T).
        expert: int32 (G,T,k), the experts that each token chose; `None` takes
            the one of the largest gate.
    """
    num_experts = gates.shape[2]
    if expert is None:
        expert = ops.argmax(gates, axis=-1)[:, :, None]  # (G,T,1)
    number = ops.arange(0, num_experts, dtype=expert.dtype)
    chosen = 0.0
    for choice in range(expert.shape[2]):
        here = expert[:, :, choice, None] == number
        chosen = chosen + ops.cast(here, gates.dtype)
    share = _token_mean(chosen, mask) / expert.shape[2]
    product = share * _token_mean(gates, mask)
    return num_experts * _mean(ops.sum(product, axis=-1), axis=0)


def z_loss(logits, mask=None):
    """Mean over tokens of logsumexp(logits)² (arXiv 2202.08906, section 3.3).

    Unlike the others it is a mean over all tokens, not first over groups.

    Args:
        logits: float32 (G,T,E).
        mask: `None` or Boolean (G,T).
    """
    logits = _seen(logits, mask)
    square = ops.square(ops.logsumexp(logits, axis=-1))  # (G,T)
    return _mean(square, None, mask)


def _seen(values, mask):
    """(G,T,E), with zeros instead of what is masked."""
    return values if mask is None else keep(mask[:, :, None], values)


def _mean(values, axis, seen=None):
    """Mean over an axis (`None`: all) of what is seen; 0 of nothing."""
    if seen is None:
        seen = ops.ones_like(values)
    else:
        seen = ops.cast(seen, values.dtype)
        values = values * seen
    number = ops.maximum(ops.sum(seen, axis=axis), scalar(1.0, values.dtype))
    return ops.sum(values, axis=axis) / number


def _token_mean(values, mask):
    """(G,T,E) -> (G,E), the mean over the tokens that are not masked."""
    values = _seen(values, mask)
    return _mean(values, 1, None if mask is None else mask[:, :, None])


def _variation(values):
    """Mean over groups of (std / mean)² over experts; 0 where all are 0."""
    mean = ops.mean(values, axis=-1)
    variance = ops.mean(ops.square(values - mean[:, None]), axis=-1)
    some = mean != 0
    ratio = variance / ops.square(keep(some, mean, 1.0))
    return _mean(keep(some, ratio), axis=0)

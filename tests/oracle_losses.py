"""The auxiliary losses of one group as plain loops; see `oracle.py`.

Gates and logits are (T,E) of the real tokens only.
"""

import math

import numpy as np


def importance_loss(gates):
    sums = gates.sum(axis=0)
    return (sums.std() / sums.mean()) ** 2


def load_loss(clean_logits, noisy_logits, top_k, std):
    """`std`: of the noise that made `noisy_logits`."""
    length, num_experts = clean_logits.shape
    win = np.zeros((length, num_experts))
    for t in range(length):
        threshold = sorted(noisy_logits[t])[-top_k]
        for e in range(num_experts):
            need = (threshold - clean_logits[t, e]) / std
            win[t, e] = 0.5 * math.erfc(need / 2**0.5)
    mean = win.mean(axis=0)
    return (mean.std() / mean.mean()) ** 2


def balance_loss(gates):
    """GShard's: E² times the mean of (share of first choices · gate)."""
    length, num_experts = gates.shape
    first = np.zeros(num_experts)
    for t in range(length):
        first[gates[t].argmax()] += 1 / length
    return num_experts**2 * (first * gates.mean(axis=0)).mean()


def z_loss(logits):
    return np.mean(
        [math.log(sum(math.exp(v) for v in row)) ** 2 for row in logits]
    )

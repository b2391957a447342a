"""The four layers as plain loops over numpy scalars and vectors, in float64.

Written from the papers' formulas and the layers' docstrings, not from the
code under test. One token, one expert, one slot at a time: slow, and meant
to be checked by eye. Tokens are (G,T,D), `experts` is a function
(e, vector) -> vector, such as `MLP`, and noise comes already scaled.
"""

import math

import numpy as np


def softmax(values, where=None):
    """Softmax of a vector; entries not in `where` get no weight."""
    values = np.asarray(values, "float64")
    where = np.ones(len(values), bool) if where is None else where
    weights = np.zeros(len(values))
    if where.any():
        weights[where] = np.exp(values[where] - values[where].max())
        weights /= weights.sum()
    return weights


def largest(weights):
    """One for the largest weight, zero for the others; all zero if all are."""
    kept = np.zeros(len(weights))
    kept[weights.argmax()] = 1.0 if weights.any() else 0.0
    return kept


def gelu(vector):
    return np.array([v * 0.5 * (1 + math.erf(v / 2**0.5)) for v in vector])


def gelu_tanh(vector):
    inner = (2 / math.pi) ** 0.5 * (vector + 0.044715 * vector**3)
    return 0.5 * vector * (1 + np.tanh(inner))


def relu(vector):
    return np.maximum(vector, 0)


class MLP:
    """The experts. `weights`: {"up": (kernel, bias), "down": …, "gate": …}.

    Kernels are (E, inputs, outputs), biases (E, outputs) or `None`; with
    "gate" the experts are gated.
    """

    def __init__(self, weights, activation=gelu):
        self.weights = weights
        self.activation = activation

    def project(self, name, e, vector):
        kernel, bias = self.weights[name]
        result = vector @ kernel[e]
        return result if bias is None else result + bias[e]

    def __call__(self, e, vector):
        hidden = self.project("up", e, vector)
        if "gate" in self.weights:
            hidden = self.activation(self.project("gate", e, vector)) * hidden
        else:
            hidden = self.activation(hidden)
        return self.project("down", e, hidden)


def soft_moe(
    tokens, slot_embedding, scale, experts, normalize=True, mask=None, noise=0.0
):
    """Returns outputs (G,T,D), dispatch and combine (G,T,E,S)."""
    tokens = np.asarray(tokens, "float64")
    groups, length, features = tokens.shape
    _, num_experts, slots = slot_embedding.shape
    mask = np.ones((groups, length), bool) if mask is None else mask
    noise = np.broadcast_to(noise, (groups, length, num_experts, slots))
    outputs = np.zeros_like(tokens)
    dispatch = np.zeros((groups, length, num_experts, slots))
    combine = np.zeros((groups, length, num_experts, slots))

    def unit(vector):
        return vector / math.sqrt((vector**2).sum() + 1e-6)

    for g in range(groups):
        logits = np.zeros((length, num_experts, slots))
        for t in range(length):
            for e in range(num_experts):
                for s in range(slots):
                    x, phi = tokens[g, t], slot_embedding[:, e, s]
                    if normalize:
                        x, phi = unit(x), scale * unit(phi)
                    logits[t, e, s] = x @ phi + noise[g, t, e, s]
        results = np.zeros((num_experts, slots, features))
        for e in range(num_experts):
            for s in range(slots):
                weights = softmax(logits[:, e, s], where=mask[g])
                dispatch[g, :, e, s] = weights
                mixed = sum(weights[t] * tokens[g, t] for t in range(length))
                results[e, s] = experts(e, mixed)
        for t in range(length):
            if mask[g, t]:
                weights = softmax(logits[t].reshape(-1))
                combine[g, t] = weights.reshape(num_experts, slots)
                for e in range(num_experts):
                    for s in range(slots):
                        outputs[g, t] += combine[g, t, e, s] * results[e, s]
    return outputs, dispatch, combine


def router_gates(tokens, router_kernel, router_bias=0.0, noise=0.0):
    """Gates (G,T,E): the softmax over the experts."""
    logits = np.asarray(tokens, "float64") @ router_kernel
    logits = logits + router_bias + noise
    return np.array([[softmax(row) for row in group] for group in logits])


def expert_choice_capacity(
    length, num_experts, factor, multiple=1, how="round"
):
    exact = length * factor / num_experts
    if how == "ceil":
        capacity = math.ceil(exact)
    else:
        capacity = math.floor(exact)
        rest = exact - capacity
        if rest > 0.5 or (rest == 0.5 and capacity % 2 == 1):
            capacity += 1
    while capacity % multiple:
        capacity += 1
    return capacity


def token_choice_capacity(length, num_experts, top_k, factor, multiple=1):
    capacity = math.ceil(length * top_k * factor / num_experts)
    while capacity % multiple:
        capacity += 1
    return capacity


def expert_choice_slots(gates, capacity, mask=None):
    """For each group, the set of (token, expert): who is taken by whom."""
    groups, length, num_experts = gates.shape
    taken = []
    for g in range(groups):
        pairs = set()
        for e in range(num_experts):
            free = [t for t in range(length) if mask is None or mask[g, t]]
            for _ in range(min(capacity, len(free))):
                best = free[0]
                for t in free:  # ties to the earlier token
                    if gates[g, t, e] > gates[g, best, e]:
                        best = t
                pairs.add((best, e))
                free.remove(best)
        taken.append(pairs)
    return taken


def token_choice_slots(gates, top_k, capacity, priority=False, mask=None):
    """Returns for each group the set of (token, expert) and the dropped."""
    groups, length, num_experts = gates.shape
    taken, dropped = [], []
    for g in range(groups):
        wishes = []
        for t in range(length):
            free = list(range(num_experts))
            wishes.append([])
            for _ in range(top_k):
                best = max(free, key=lambda e: (gates[g, t, e], -e))
                wishes[t].append(best)
                free.remove(best)
        queue = [t for t in range(length) if mask is None or mask[g, t]]
        if priority:
            queue.sort(key=lambda t: (-max(gates[g, t]), t))
        left = [capacity] * num_experts
        pairs, lost = set(), set()
        for choice in range(top_k):
            for t in queue:
                e = wishes[t][choice]
                if left[e]:
                    left[e] -= 1
                    pairs.add((t, e))
                else:
                    lost.add((t, e))
        taken.append(pairs)
        dropped.append(lost)
    return taken, dropped


def dispatched_outputs(tokens, gates, taken, experts):
    """Output of both hard routers: gate times expert, for dispatched pairs."""
    tokens = np.asarray(tokens, "float64")
    outputs = np.zeros_like(tokens)
    for g, pairs in enumerate(taken):
        for t, e in pairs:
            outputs[g, t] += gates[g, t, e] * experts(e, tokens[g, t])
    return outputs


def expert_choice(tokens, gates, capacity, experts, mask=None):
    taken = expert_choice_slots(gates, capacity, mask)
    return dispatched_outputs(tokens, gates, taken, experts)


def token_choice(
    tokens, gates, top_k, capacity, experts, priority=False, mask=None
):
    taken, _ = token_choice_slots(gates, top_k, capacity, priority, mask)
    return dispatched_outputs(tokens, gates, taken, experts)


def mixture_of_tokens(
    inputs,
    router_kernel,
    group_size,
    experts,
    merge_temperature=1.0,
    emit_temperature=None,
    group_axis="batch",
    emit_over_experts=False,
    mixing="group",
    padding="mask",
    mask=None,
):
    """(B,N,D) -> (B,N,D). Temperatures: a number or one for each expert.

    An `emit_temperature` of `None` is the `merge_temperature`.
    """
    inputs = np.asarray(inputs, "float64")
    batch, length, features = inputs.shape
    num_experts = router_kernel.shape[1]
    mask = np.ones((batch, length), bool) if mask is None else mask
    merge_t = np.broadcast_to(merge_temperature, (num_experts,))
    emit_t = np.broadcast_to(
        merge_t if emit_temperature is None else emit_temperature,
        (num_experts,),
    )
    outputs = np.zeros_like(inputs)

    # A group is a list of places (b, n); None stands for a missing token.
    groups = []
    outer, inner = (length, batch) if group_axis == "batch" else (batch, length)
    for i in range(outer):
        for start in range(0, inner, group_size):
            places = []
            for j in range(start, start + group_size):
                place = (j, i) if group_axis == "batch" else (i, j)
                places.append(place if j < inner else None)
            groups.append(places)

    for places in groups:
        if mixing in ("self", "argmax"):
            for place in places:
                if place is None or not mask[place]:
                    continue
                logits = inputs[place] @ router_kernel
                if mixing == "argmax":
                    weights = np.zeros(num_experts)
                    weights[logits.argmax()] = 1.0
                elif emit_over_experts:
                    weights = softmax(logits / emit_t)
                else:
                    weights = np.full(num_experts, 1 / group_size)
                for e in range(num_experts):
                    outputs[place] += weights[e] * experts(e, inputs[place])
            continue

        vectors = [
            np.zeros(features) if place is None else inputs[place]
            for place in places
        ]
        real = np.array(
            [padding == "zeros" if p is None else mask[p] for p in places]
        )
        logits = np.array([vector @ router_kernel for vector in vectors])
        merge = np.zeros((group_size, num_experts))
        emit = np.zeros((group_size, num_experts))
        for e in range(num_experts):
            merge[:, e] = softmax(logits[:, e] / merge_t[e], where=real)
            emit[:, e] = softmax(logits[:, e] / emit_t[e], where=real)
        if emit_over_experts:
            emit = np.array([softmax(row / emit_t) for row in logits])
        if mixing == "discrete":
            for e in range(num_experts):
                merge[:, e] = largest(merge[:, e])
                if not emit_over_experts:
                    emit[:, e] = largest(emit[:, e])
            if emit_over_experts:
                emit = np.array([largest(row) for row in emit])
        for e in range(num_experts):
            mixed = sum(merge[k, e] * vectors[k] for k in range(group_size))
            result = experts(e, mixed)
            for k, place in enumerate(places):
                if place is not None and mask[place]:
                    outputs[place] += emit[k, e] * result
    return outputs

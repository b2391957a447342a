"""Expert Choice with a cap on how many experts take one token.

Section 3.3 of arXiv 2202.09368 chooses the seats by a linear program, over A
(E experts, T tokens):

    maximise  <gates, A>
    so that   each expert's row sums to S, each token's column to at most b,
              0 <= A <= 1.

The paper adds an entropy term of weight 0.001, projects in turn on the three
constraints and takes top-k of the result; no public code of it was found. Its
A is not of zeros and ones, and rounding it cost up to a third of the objective
and left seats empty. This is the auction of Bertsekas instead, which seats
whole tokens, the best seating up to (step of the prices) x (seats). What a long
auction has not settled is filled expert by expert.

The number of steps is bounded by a constant, and where reading a value would
make a device wait, all of them are taken.
"""

import functools

import keras
from keras import ops

from keras_moe.ops import devices

STEP = 0.01  # of the mean gate: what a bid adds to a price, in the first round
GROWTH = 2 ** (1 / 16)  # of the step, so that long bidding wars end
ROUNDS = 128
LOOK = 8  # after how many rounds PyTorch's CPUs see whether anybody bids
NONE = -1e30


def assign_capped(gates, capacity, max_experts_per_token, mask=None):
    """Which (token, expert) pairs are seated: Boolean (G,T,E).

    No token sits with more than `max_experts_per_token` experts and no expert
    seats more than `capacity` tokens. In each round, experts with empty seats
    bid for the tokens whose gate exceeds their price most, as much as leaves
    these no worse than the next best one; a token keeps the `b` highest bids,
    the least of which is its price (0 while it has room).

    If the tokens are too few to fill all experts, seats stay empty. There are
    at most `ROUNDS` rounds of two selections of the largest, and E steps that
    fill.

    Args:
        gates: float32 (G,T,E), in [0, 1]. No gradient passes.
        capacity: S, at most T.
        max_experts_per_token: b.
        mask: `None` or Boolean (G,T), `False` is never seated.
    """
    room = min(max_experts_per_token, gates.shape[2])
    return _compiled()(ops.stop_gradient(gates), mask, capacity, room, ROUNDS)


@functools.cache
def _compiled():
    """The assignment, compiled once a shape where that is not done anyway."""
    if keras.backend.backend() != "jax":
        return _assign
    import jax

    return jax.jit(_assign, static_argnums=(2, 3, 4))


def _assign(gates, mask, capacity, room, rounds):
    gates = ops.transpose(gates, (0, 2, 1))  # (G,E,T)
    if mask is None:
        mask = ops.ones_like(gates[:, 0], dtype="bool")
    present = mask[:, None, :]  # (G,1,T)
    most = ops.cast(capacity, "int32")
    seats = ops.minimum(most, _count(present))  # (G,1,1)
    held = _auction(gates, present, seats, capacity, room, rounds)
    taken = _fill(held, gates, mask, seats[:, 0], capacity, room)
    return ops.transpose(taken, (0, 2, 1))


def _auction(gates, present, seats, capacity, room, rounds):
    """Boolean (G,E,T): who holds whom after the last round."""
    experts = gates.shape[1]
    # Experts that can all be filled pay whatever that takes; otherwise an
    # empty seat is better than a price above the gate.
    enough = seats * experts <= _count(present) * room
    least = ops.where(enough, -2.0 * experts, 0.0)
    least = ops.cast(least, gates.dtype)  # (G,1,1)

    free_gates = ops.where(present, gates, NONE)

    def bid(bids, price, step, goes_on):
        held = bids > NONE
        gain = free_gates - price
        gain = ops.where(ops.logical_or(held, gain < least), NONE, gain)
        need = seats - _count(held)
        wanted, _, next_gain = _largest(gain, need, capacity)
        offer = gates - ops.maximum(next_gain, least) + step
        bids = ops.where(wanted, offer, bids)
        kept, lowest, _ = _largest(bids, room, room, axis=1)
        bids = ops.where(kept, bids, NONE)
        price = ops.maximum(lowest, 0.0)  # (G,1,T)
        return bids, price, step * GROWTH, ops.any(wanted)

    bids = ops.zeros_like(gates) + NONE
    step = ops.cast(STEP / experts, gates.dtype)
    start = (bids, ops.zeros_like(gates[:, :1]), step, ops.cast(1, "bool"))
    return _repeat(bid, start, rounds)[0] > NONE


def _is_exported():
    import torch

    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _repeat(step, state, rounds):
    """Take steps while the last entry of the state is true."""
    if keras.backend.backend() != "torch":
        return ops.while_loop(
            lambda *state: state[-1], step, state, maximum_iterations=rounds
        )
    looks = devices.kind_of(state[0]) == "cpu"
    looks = looks and not devices.only_portable(state[0])
    if _is_exported():
        raise NotImplementedError(
            "max_experts_per_token cannot be exported by PyTorch, to ONNX or "
            f"otherwise: it would write down {rounds} rounds one by one."
        )
    for number in range(1, rounds + 1):
        state = step(*state)
        if looks and number % LOOK == 0 and not state[-1]:
            break
    return state


def _fill(held, gates, mask, seats, capacity, room):
    """Fill seats that are empty though tokens have room, expert by expert.

    Each expert takes the tokens that it holds, then those with room, then
    those that later experts hold. It must leave enough to these. With r[t] the
    room of token t, k the experts that are left and s the seats of each, they
    can take, of rows that are equally long (Gale and Ryser),

        min(k · s, sum over t of min(r[t], k))

    pairs. A token of r > k is critical: it is all the same for that number
    whether the expert takes it. Each other token that it takes costs one.

    Args:
        held: Boolean (G,E,T), what the auction gave.
        gates: (G,E,T).
        mask: Boolean (G,T).
        seats: int32 (G,1), of each expert.
        capacity: the most of these.
        room: of each token.
    """
    experts = gates.shape[1]
    holds = ops.cast(ops.transpose(held, (1, 0, 2)), "int32")  # (E,G,T)
    total = ops.sum(holds, axis=0, keepdims=True)
    later = total - ops.cumsum(holds, axis=0)
    left = ops.arange(experts - 1, -1, -1, dtype="int32")  # (E,)

    def take(room, one):
        gates, holds, later, left = one
        open_ = room > 0
        critical = room > left
        required = _count(critical)  # (G,1)
        others = _sum(ops.minimum(room, left))
        spare = others - left * seats  # of tokens that are not critical
        # Where tokens are too few, those that nobody holds are shared out.
        unheld = others + required - _sum(holds + later)
        share = (ops.maximum(unheld, 0) + left) // (left + 1)
        number = ops.maximum(
            required + ops.maximum(spare, 0), _sum(holds) + share
        )
        number = ops.minimum(number, seats)
        spare = ops.minimum(ops.maximum(spare, number - required), number)

        rank = 2 * holds + ops.cast(room > later + holds, "int32")
        score = gates + ops.cast(rank, gates.dtype)
        free = ops.logical_and(open_, ops.logical_not(critical))
        free = ops.where(free, score, NONE)
        free, _, _ = _largest(free, spare, capacity)
        candidates = ops.where(ops.logical_or(critical, free), score, NONE)
        taken, _, _ = _largest(candidates, number, capacity)
        taken = ops.cast(taken, "int32")
        return room - taken, taken

    start = room * ops.cast(mask, "int32")
    by_expert = (ops.transpose(gates, (1, 0, 2)), holds, later, left)
    if keras.backend.backend() == "tensorflow":  # ONNX has no lists of arrays
        rows = []
        for expert in range(experts):
            start, taken = take(start, [x[expert] for x in by_expert])
            rows.append(taken)
        return ops.stack(rows, axis=1) > 0
    _, taken = ops.scan(take, start, by_expert)
    return ops.transpose(taken, (1, 0, 2)) > 0


def _largest(values, count, most, axis=-1):
    """The `count` largest entries above `NONE` of an axis, 1 or the last.

    Returns where they are (ties to the earlier), the least of them, and the
    largest of the others, `NONE` if there is no such entry. `most` bounds
    `count`.
    """
    size = ops.shape(values)[axis]
    number = _smaller(most + 1, size)
    if axis == -1:
        ranked, _ = ops.top_k(values, number)
    else:
        ranked, _ = ops.top_k(ops.transpose(values, (0, 2, 1)), number)
        ranked = ops.transpose(ranked, (0, 2, 1))
    first = ops.sum(ops.zeros_like(ranked, dtype="int32"), axis, keepdims=True)
    count = first + count
    least = ops.take_along_axis(ranked, ops.maximum(count - 1, 0), axis=axis)
    after = ops.take_along_axis(
        ranked, ops.minimum(count, number - 1), axis=axis
    )
    after = ops.where(count < size, after, NONE)
    above = _count(ranked > least, axis)
    equal = values == ops.where(least > NONE, least, -NONE)
    turn = ops.cumsum(ops.cast(equal, "int32"), axis=axis)
    chosen = ops.where(equal, turn <= count - above, values > least)
    return chosen, least, after


def _smaller(one, other):
    """Of two sizes; a number if both are."""
    if isinstance(one, int) and isinstance(other, int):
        return min(one, other)
    return ops.minimum(one, other)


def _count(entries, axis=-1):
    return _sum(ops.cast(entries, "int32"), axis)


def _sum(entries, axis=-1):
    return ops.sum(entries, axis=axis, keepdims=True)

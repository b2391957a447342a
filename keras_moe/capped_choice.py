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
auction has not settled is filled one seat at a time.
"""

from keras import ops

STEP = 0.01  # of the mean gate: what a bid adds to a price, in the first round
GROWTH = 2 ** (1 / 16)  # of the step, so that long bidding wars end
ROUNDS = 128
NONE = -1e30


def assign_capped(gates, capacity, max_experts_per_token, mask=None):
    """Which (token, expert) pairs are seated: Boolean (G,T,E).

    No token sits with more than `max_experts_per_token` experts and no expert
    seats more than `capacity` tokens. In each round, experts with empty seats
    bid for the tokens whose gate exceeds their price most, as much as leaves
    these no worse than the next best one; a token keeps the `b` highest bids,
    the least of which is its price (0 while it has room).

    If the tokens are too few to fill all experts, seats stay empty. The loop
    lasts until nobody bids, mostly some ten rounds of two sorts.

    Args:
        gates: float32 (G,T,E), in [0, 1]. No gradient passes.
        capacity: S, at most T.
        max_experts_per_token: b.
        mask: `None` or Boolean (G,T), `False` is never seated.
    """
    gates = ops.transpose(ops.stop_gradient(gates), (0, 2, 1))  # (G,E,T)
    room = min(max_experts_per_token, gates.shape[1])
    if mask is None:
        mask = ops.ones_like(gates[:, 0], dtype="bool")
    present = mask[:, None, :]  # (G,1,T)
    seats = ops.minimum(ops.cast(capacity, "int32"), _count(present))  # (G,1,1)
    taken = _auction(gates, present, seats, room)
    taken = _fill(taken, gates, present, seats, room)
    return ops.transpose(taken, (0, 2, 1))


def _auction(gates, present, seats, room):
    """Boolean (G,E,T): who holds whom when nobody bids any more."""
    experts = gates.shape[1]
    # Experts that can all be filled pay whatever that takes; otherwise an
    # empty seat is better than a price above the gate.
    enough = seats * experts <= _count(present) * room
    least = ops.where(enough, -2.0 * experts, 0.0)
    least = ops.cast(least, gates.dtype)  # (G,1,1)

    def bidding(bids, price, step, goes_on):
        return goes_on

    def bid(bids, price, step, goes_on):
        held = bids > NONE
        free = ops.logical_and(present, ops.logical_not(held))
        gain = gates - price
        gain = ops.where(ops.logical_and(free, gain >= least), gain, NONE)
        wanted, _, next_gain = _largest(gain, seats - _count(held))
        offer = gates - ops.maximum(next_gain, least) + step
        bids = ops.where(wanted, offer, bids)
        by_token = ops.transpose(bids, (0, 2, 1))  # (G,T,E)
        kept, lowest, _ = _largest(by_token, room)
        bids = ops.where(ops.transpose(kept, (0, 2, 1)), bids, NONE)
        price = ops.maximum(ops.transpose(lowest, (0, 2, 1)), 0.0)  # (G,1,T)
        return bids, price, step * GROWTH, ops.any(wanted)

    bids = ops.zeros_like(gates) + NONE
    step = ops.cast(STEP / experts, gates.dtype)
    start = (bids, ops.zeros_like(gates[:, :1]), step, ops.cast(1, "bool"))
    bids, *_ = ops.while_loop(bidding, bid, start, maximum_iterations=ROUNDS)
    return bids > NONE


def _fill(taken, gates, present, seats, room):
    """Fill seats that are empty though tokens have room, one by one.

    The expert e with most empty seats takes a token with room or, if it holds
    all of these, one from another expert, which takes one with room instead.
    As e holds fewer tokens than a full expert, such an exchange exists.
    """
    experts = ops.arange(0, gates.shape[1], dtype="int32")[:, None]  # (E,1)
    tokens = ops.arange(0, ops.shape(gates)[2], dtype="int32")  # (T,)

    def filling(taken, goes_on):
        return goes_on

    def fill_one(taken, goes_on):
        need = seats - _count(taken)  # (G,E,1)
        is_e = _is_best(need, 1, experts)  # (G,E,1)
        mine = ops.any(ops.logical_and(is_e, taken), axis=1, keepdims=True)
        value = ops.sum(ops.where(is_e, gates, 0.0), axis=1, keepdims=True)
        sits = ops.sum(ops.cast(taken, "int32"), axis=1, keepdims=True)
        free = ops.logical_and(present, sits < room)  # (G,1,T)
        enter = ops.logical_and(free, ops.logical_not(taken))
        enter = ops.where(enter, gates, NONE)
        leave = ops.logical_and(taken, ops.logical_not(mine))
        leave = ops.where(leave, value - gates, NONE)
        gain = ops.max(leave, axis=2, keepdims=True)
        gain = ops.where(is_e, 0.0, gain) + ops.max(enter, 2, keepdims=True)
        possible = ops.logical_and(
            ops.max(gain, axis=1, keepdims=True) > NONE / 2,
            ops.max(need, axis=1, keepdims=True) > 0,
        )  # (G,1,1)
        is_other = ops.logical_and(possible, _is_best(gain, 1, experts))

        entering = ops.logical_and(is_other, _is_best(enter, 2, tokens))
        leaving = ops.logical_and(is_other, ops.logical_not(is_e))
        leaving = ops.logical_and(leaving, _is_best(leave, 2, tokens))
        passed = ops.any(leaving, axis=1, keepdims=True)  # (G,1,T)
        passed = ops.logical_and(is_e, passed)
        taken = ops.logical_and(taken, ops.logical_not(leaving))
        taken = ops.logical_or(taken, ops.logical_or(entering, passed))
        return taken, ops.any(possible)

    start = (taken, ops.cast(1, "bool"))
    return ops.while_loop(filling, fill_one, start)[0]


def _is_best(values, axis, index):
    """Where the largest entry of the axis is, ties to the first of `index`."""
    # Not ops.argmax: see routing.best_expert.
    largest = values == ops.max(values, axis=axis, keepdims=True)
    turn = ops.where(largest, index, ops.max(index) + 1)
    return index == ops.min(turn, axis=axis, keepdims=True)


def _largest(values, count):
    """The `count` largest entries above `NONE` of the last axis.

    Returns where they are (ties to the earlier), the least of them, and the
    largest of the others, `NONE` if there is no such entry.
    """
    size = ops.shape(values)[-1]
    first = ops.zeros_like(values[..., :1], dtype="int32")
    count = first + count
    ranked = -ops.sort(-values, axis=-1)
    place = ops.maximum(count - 1, 0)
    least = ops.take_along_axis(ranked, place, axis=-1)
    place = ops.minimum(count, size - 1)
    after = ops.take_along_axis(ranked, place, axis=-1)
    after = ops.where(count < size, after, NONE)
    above = values > least
    equal = ops.logical_and(values == least, least > NONE)
    turn = ops.cumsum(ops.cast(equal, "int32"), axis=-1)
    equal = ops.logical_and(equal, turn <= count - _count(above))
    return ops.logical_or(above, equal), least, after


def _count(entries):
    return ops.sum(ops.cast(entries, "int32"), axis=-1, keepdims=True)

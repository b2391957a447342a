"""Expert Choice with a cap on how many experts take one token.

Section 3.3 of arXiv 2202.09368 chooses the seats by a linear program with an
entropy term, over A (E experts, T tokens):

    maximise  <gates, A> + λ H(A)
    so that   each expert's row sums to S, each token's column to at most b,
              0 <= A <= 1,

solved by Dykstra's alternating projections. No public code of it was found.
"""

from keras import ops

LAMBDA = 0.001  # the paper's
ITERATIONS = 100  # the paper's most
ROUNDS = 8
NOBODY = -1e30


def assign_capped(gates, capacity, max_experts_per_token, mask=None):
    """Which (token, expert) pairs are seated: Boolean (G,T,E).

    No token sits with more than `max_experts_per_token` experts and no expert
    seats more than `capacity` tokens. The relaxed solution is rounded in a few
    rounds in which tokens offer themselves to the experts that value them
    most and experts take the best offers; a seat for which no token with room
    is left stays empty.

    Args:
        gates: float32 (G,T,E). No gradient passes.
        capacity: S.
        max_experts_per_token: b.
        mask: `None` or Boolean (G,T), `False` is never seated.
    """
    value = relaxed_assignment(gates, capacity, max_experts_per_token, mask)
    if mask is not None:
        value = ops.where(mask[:, :, None], value, NOBODY)

    def seat_more(_, taken):
        room = max_experts_per_token - ops.sum(taken, axis=2, keepdims=True)
        need = capacity - ops.sum(taken, axis=1, keepdims=True)
        closed = ops.logical_or(taken > 0, ops.logical_or(room < 1, need < 1))
        offer = ops.where(closed, NOBODY, value)
        offered = ops.logical_and(_rank(offer, 2) < room, offer > NOBODY)
        offer = ops.where(offered, offer, NOBODY)
        accepted = ops.logical_and(_rank(offer, 1) < need, offered)
        return taken + ops.cast(accepted, "int32")

    nobody = ops.zeros_like(value, dtype="int32")
    return ops.fori_loop(0, ROUNDS, seat_more, nobody) > 0


def relaxed_assignment(gates, capacity, max_experts_per_token, mask=None):
    """The logarithm of the linear program's A, laid out (G,T,E).

    In logarithms each projection (in the sense of Kullback and Leibler) is a
    shift: rows to sum S, columns above b down to b, entries above 1 down to 1.
    """
    room = ops.log(ops.cast(max_experts_per_token, gates.dtype))
    seats = ops.log(ops.cast(capacity, gates.dtype))
    value = ops.stop_gradient(gates) / LAMBDA
    if mask is not None:
        value = ops.where(mask[:, :, None], value, NOBODY)

    def project(_, state):
        value, column, entry = state
        # A row's correction is constant along it, so the next projection of
        # the row takes it away again: only the other two are carried.
        value = value + seats - ops.logsumexp(value, axis=1, keepdims=True)
        moved = value + column
        excess = ops.logsumexp(moved, axis=2, keepdims=True) - room
        value = moved - ops.maximum(excess, 0.0)
        column = moved - value
        moved = value + entry
        value = ops.minimum(moved, 0.0)
        return value, column, moved - value

    none = ops.zeros_like(value)
    value, _, _ = ops.fori_loop(0, ITERATIONS, project, (value, none, none))
    # Equal tokens would all offer themselves to the same experts: prefer, by
    # less than any gate decides, expert (t mod E), then the ones behind it.
    experts = ops.arange(gates.shape[2], dtype="int32")
    tokens = ops.arange(ops.shape(gates)[1], dtype="int32")[:, None]
    turn = ops.cast((experts - tokens) % gates.shape[2], value.dtype)
    return value - 1e-4 * turn / gates.shape[2]


def _rank(value, axis):
    """0 for the largest along `axis`, 1 for the next; ties in order."""
    order = ops.argsort(-value, axis=axis)
    return ops.argsort(order, axis=axis)

"""Expert Choice with a cap on how many experts take one token.

Section 3.3 of arXiv 2202.09368 chooses the pairs by a linear program, over A
(E experts, T tokens):

    maximise  <gates, A>
    so that   each expert's row sums to S, each token's column to at most b,
              0 <= A <= 1.

The paper adds an entropy term of weight 0.001, projects in turn on the three
constraints and takes top-k of the result; no public code of it was found. Its
A is not of zeros and ones, and rounding it cost up to a third of the objective
and left slots empty. Here whole tokens are assigned, in three steps:

1. Prices. A token is worth gates - p to an expert. Where nearly all tokens must
   be taken b times, p starts at what coordinate descent on the dual program
   gives, `PRICE_ROUNDS` rounds of it; else at 0.
2. The auction of Bertsekas (`_auction`), at most `ROUNDS` rounds. An auction
   that ends reaches the optimum up to (last step) x (slots) + (prices of tokens
   that are taken fewer than b times, 0 unless fewer than 1 % are).
3. What is open then is filled expert by expert (`_fill`), at most a slot in
   a thousand if the auction has ended.

The number of steps is constant. Compiled loops and PyTorch's CPUs end early;
elsewhere PyTorch takes all rounds, as reading a value would make it wait.
"""

import functools

import keras
from keras import ops

from keras_moe.ops import selection
from keras_moe.ranking import NONE
from keras_moe.ranking import at_most
from keras_moe.ranking import count
from keras_moe.ranking import largest
from keras_moe.ranking import top
from keras_moe.ranking import total
from keras_moe.ranking import where

PRICE_ROUNDS = 6
DAMPING = 0.7  # two experts that both move all the way would swap for ever
ROUNDS = 64
STEP = 0.01  # of the mean gate: what a bid adds to a price, in the first round
GROWTH = 2 ** (1 / 8)  # of the step, so that long bidding wars end
OPEN = 0.001  # the share of slots that an auction may leave open
NEARLY = 0.99  # the share of places that are taken where prices start high


def assign_capped(gates, capacity, max_experts_per_token, mask=None):
    """Choose (token, expert) pairs: Boolean (G,T,E).

    No expert takes more than `capacity` tokens and no token is taken by more
    than `max_experts_per_token` experts. All experts are full if the tokens
    suffice; otherwise as many pairs are chosen as both bounds allow.

    Args:
        gates: float32 (G,T,E), in [0, 1]. No gradient passes.
        capacity: S, at most T.
        max_experts_per_token: b.
        mask: `None` or Boolean (G,T), `False` is never taken.
    """
    if mask is None:
        mask = ops.ones_like(gates[:, :, 0], dtype="bool")
    if max_experts_per_token >= gates.shape[2]:
        return ops.logical_or(mask[:, :, None], ops.zeros_like(gates) > 0)
    gates = ops.stop_gradient(gates)
    assign = _FORMS[keras.backend.backend()](gates)
    return assign(gates, mask, capacity, max_experts_per_token, ROUNDS)


def _on_jax(gates):
    from keras_moe.ops import jax_programs

    return _compiled(jax_programs.compiled, static_argnums=(2, 3, 4))


def _on_tensorflow(gates):
    import tensorflow as tf

    return _compiled(tf.function) if tf.executing_eagerly() else _assign


@functools.cache
def _compiled(compiler, **options):
    """The assignment for eager calls: loops are slow step by step."""
    return compiler(_assign, **options)


def _on_torch(gates):
    import torch

    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        raise NotImplementedError(
            "max_experts_per_token cannot be exported by PyTorch, to ONNX or "
            f"otherwise: it would write down {ROUNDS} rounds one by one."
        )
    return _OPERATOR if torch.compiler.is_compiling() else _assign


def _operator():
    """The assignment as one operator; tracing its rounds takes minutes."""
    import torch

    @torch.library.custom_op("keras_moe::assign_capped", mutates_args=())
    def assign(
        gates: torch.Tensor,
        mask: torch.Tensor,
        capacity: int,
        cap: int,
        rounds: int,
    ) -> torch.Tensor:
        return _assign(gates, mask, capacity, cap, rounds).contiguous()

    assign.register_fake(
        lambda gates, *_: torch.empty(
            gates.shape, dtype=torch.bool, device=gates.device
        )
    )
    return assign


_OPERATOR = _operator() if keras.backend.backend() == "torch" else None


_FORMS = {
    "jax": _on_jax,
    "tensorflow": _on_tensorflow,
    "torch": _on_torch,
}


def _assign(gates, mask, capacity, cap, rounds):
    gates = ops.transpose(gates, (0, 2, 1))  # (G,E,T)
    experts = gates.shape[1]
    present = mask[:, None, :]  # (G,1,T)
    slots = at_most(count(present), capacity)  # (G,1,1)
    places = count(present) * cap
    # Experts that can all be filled pay whatever that takes; otherwise an
    # empty slot is better than a price above the gate.
    enough = slots * experts <= places
    least = ops.cast(enough, gates.dtype) * (-2.0 * experts)  # (G,1,1)
    price = _prices(gates, present, slots, capacity, cap, least)
    price = price - ops.amin(where(present, price, 1e9), -1, keepdims=True)
    share = ops.cast(slots * experts, "float32")
    share = share >= NEARLY * ops.cast(places, "float32")
    price = where(share, price, 0.0)
    held = _auction(gates, present, slots, capacity, cap, least, price, rounds)
    taken = _fill(held, gates, mask, slots[:, 0], capacity, cap)
    return ops.transpose(taken, (0, 2, 1))


def _prices(gates, present, slots, capacity, cap, least):
    """Near optimal prices (G,1,T) of tokens, by descent on those of slots.

    If expert e takes the tokens of gate - (the b-th best of what the others
    offer) > q[e], then q[e] fits that is exceeded by S tokens.
    """

    def descend(q, number):
        offers = gates - q
        _, ranked = top(offers, cap + 1)
        other = ops.where(offers >= ranked[-2], ranked[-1], ranked[-2])
        value = where(present, gates - ops.relu(other), NONE)
        _, last, after = largest(value, slots, capacity)
        after = ops.where(after > NONE, after, last)
        new = at_most((last + after) / 2, 2.0)
        q = q + DAMPING * (ops.maximum(new, least) - q)
        return q, number + 1

    start = (ops.zeros_like(gates[:, :, :1]), ops.zeros((), "int32"))
    q, _ = _repeat(
        lambda _, number: number < PRICE_ROUNDS, descend, start, PRICE_ROUNDS
    )
    return ops.relu(top(gates - q, cap + 1)[1][-1])


def _auction(gates, present, slots, capacity, cap, least, floor, rounds):
    """Boolean (G,E,T): who holds whom after the last round.

    In each round, experts with open slots bid for the tokens whose gate exceeds
    their price most, as much as leaves these no worse than the next best one; a
    token keeps the `cap` highest bids, and the lowest of them is its price.
    """
    present_gates = where(present, gates, NONE)
    experts = gates.shape[1]
    allowed = ops.cast(slots * experts, "float32") * OPEN

    def bid(bids, price, step, goes_on):
        held = bids > NONE
        gain = present_gates - price
        gain = where(ops.logical_or(held, gain < least), NONE, gain)
        need = slots - count(held)
        much = ops.cast(total(need, axis=1), "float32") > allowed
        need = need * ops.cast(much, need.dtype)
        wanted, _, after = largest(gain, need, capacity)
        offer = gates - ops.maximum(after, least) + step
        bids = ops.where(wanted, offer, bids)
        kept, ranked = top(bids, cap)
        bids = where(kept, bids, NONE)
        price = ops.maximum(ranked[-1], floor)  # (G,1,T)
        return bids, price, step * GROWTH, ops.any(wanted)

    bids = ops.zeros_like(gates) + NONE
    step = ops.zeros_like(floor[:1, :, :1]) + STEP / experts
    start = (bids, floor, step, step[0, 0, 0] > 0)
    return _repeat(lambda *state: state[-1], bid, start, rounds)[0] > NONE


def _repeat(goes_on, step, state, rounds):
    """Take at most so many steps, while `goes_on` of the state."""
    if keras.backend.backend() != "torch":
        return ops.while_loop(goes_on, step, state, maximum_iterations=rounds)
    reads = selection.kind_of(state[0]) == "cpu"
    if reads and not selection.only_portable(state[0]):
        from keras_moe.ops.cpu import torch as on_cpu

        return on_cpu.repeat(goes_on, step, state, rounds)
    for _ in range(rounds):
        state = step(*state)
    return state


def _fill(held, gates, mask, slots, capacity, cap):
    """Fill slots that are open though tokens can be taken, expert by expert.

    Each expert takes the tokens that it holds, then those with places left,
    then those that later experts hold. It must leave enough to these. With r[t]
    the places of token t, k the experts that are left and s the slots of each,
    they can take, of rows that are equally long (Gale and Ryser),

        min(k · s, sum over t of min(r[t], k))

    pairs. A token of r > k is critical: it is all the same for that number
    whether the expert takes it. Each other token that it takes costs one.
    """
    experts = gates.shape[1]
    holds = ops.cast(ops.transpose(held, (1, 0, 2)), "int32")  # (E,G,T)
    later = total(holds, axis=0) - ops.cumsum(holds, axis=0)
    left = ops.arange(experts - 1, -1, -1, dtype="int32")  # (E,)

    def take(places, one):
        gates, holds, later, left = one
        critical = places > left
        required = count(critical)  # (G,1)
        others = total(ops.minimum(places, left))
        spare = others - left * slots  # of tokens that are not critical
        # Where tokens are too few, those that nobody holds are shared out.
        unheld = others + required - total(holds + later)
        share = (ops.relu(unheld) + left) // (left + 1)
        number = required + ops.relu(spare)
        number = ops.maximum(number, total(holds) + share)
        number = ops.minimum(number, slots)
        spare = ops.minimum(ops.maximum(spare, number - required), number)

        rank = 2 * holds + ops.cast(places > later + holds, "int32")
        score = gates + ops.cast(rank, gates.dtype)
        free = ops.logical_and(places > 0, ops.logical_not(critical))
        free, _, _ = largest(where(free, score, NONE), spare, capacity)
        score = where(ops.logical_or(critical, free), score, NONE)
        taken, _, _ = largest(score, number, capacity)
        taken = ops.cast(taken, "int32")
        return places - taken, taken

    start = cap * ops.cast(mask, "int32")
    by_expert = (ops.transpose(gates, (1, 0, 2)), holds, later, left)
    taken = _scan(take, start, by_expert, experts)
    return ops.transpose(taken, (1, 0, 2)) > 0


def _scan(take, start, by_expert, experts):
    """Rows (E,G,T) of `take`, expert by expert."""
    if keras.backend.backend() != "tensorflow":
        return ops.scan(take, start, by_expert)[1]

    # As ops.scan, without lists of arrays, which ONNX does not have.
    def step(number, places, rows):
        one = [ops.take(x, number, axis=0) for x in by_expert]
        places, row = take(places, one)
        index = ops.reshape(number, (1, 1))
        return number + 1, places, ops.scatter_update(rows, index, row[None])

    state = (ops.zeros((), "int32"), start, by_expert[1])
    loop = ops.while_loop(lambda number, *_: number < experts, step, state)
    return loop[2]

"""The three kinds of plan: how tokens become slots, and slots tokens again.

Axes, here and everywhere: G groups, T tokens of a group, E experts, S slots of
an expert, D features. Tokens are routed inside their group, never across.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_moe import indexing
from keras_moe.deprecation import renamed_fields
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep


@dataclasses.dataclass(frozen=True)
class SoftPlan:
    """Every slot reads a mixture of tokens, every token one of slots.

    The plan is kept as the factors of its logits and writes the (G,T,E,S)
    arrays only when asked, so that streaming code never needs to hold them:

        logits[g,t,e,s] = tokens[g,t,:] · slots[:,e,s] + noise[g,t,e,s]
        dispatch        = softmax over t of logits / merge_temperature
        combine         = softmax of logits / emit_temperature, over (e,s)
                          jointly or over t

    Args:
        tokens: float32 (G,T,D), the tokens as the router sees them.
        slots: float32 (D,E,S), the slot embeddings as the router sees them.
        noise: `None` or float32 (G,T,E,S), added to the logits.
        mask: `None` or Boolean (G,T); a `False` token gets no weight at all.
        merge_temperature: number or (E,) tensor.
        emit_temperature: number or (E,) tensor; `None` is the merge one.
        combine_over: `"slots"` or `"tokens"`, what combine sums to one over.
        copies: each token stands for this many equal tokens of its group.
            Matters for combine over tokens, which they share.
        discrete: whether to keep only the largest weight of each softmax,
            as one. Ties keep several. Has no gradient.
        bound: `None`, or a number that no product of a token and a slot
            embedding exceeds, nor its negative.
        scale: `None`, or a scalar tensor that they are the product of with
            vectors of length one, for code that reads its value.
    """

    tokens: Any
    slots: Any
    noise: Any = None
    mask: Any = None
    merge_temperature: Any = 1.0
    emit_temperature: Any = None
    combine_over: str = "slots"
    copies: int = 1
    discrete: bool = False
    bound: float | None = None
    scale: Any = None

    def weights(self):
        """Write out the pair `(dispatch, combine)`, each (G,T,E,S)."""
        logits = ops.einsum("gtd,des->gtes", self.tokens, self.slots)
        if self.noise is not None:
            logits = logits + self.noise
        dispatch = self._softmax(logits, self.merge_temperature, "tokens")
        if self.combine_over == "slots":
            emit = self.emit_temperature
            emit = self.merge_temperature if emit is None else emit
            combine = self._softmax(logits, emit, "slots")
        elif self.emit_temperature is None:
            combine = dispatch / self.copies
        else:
            combine = self._softmax(logits, self.emit_temperature, "tokens")
            combine = combine / self.copies
        return dispatch, combine

    @property
    def dispatch(self):
        """float32 (G,T,E,S): how much of token t slot (e,s) reads."""
        return self.weights()[0]

    @property
    def combine(self):
        """float32 (G,T,E,S): how much of slot (e,s) token t reads."""
        return self.weights()[1]

    def _softmax(self, logits, temperature, over):
        """Softmax over `"tokens"` or, jointly, over `"slots"`: (G,T,E,S)."""
        _, _, experts, slots = logits.shape
        logits = logits / _per_expert(temperature)
        seen = None if self.mask is None else self.mask[:, :, None, None]
        if seen is not None:
            logits = keep(seen, logits, MASKED)
        if over == "tokens":
            axis, weights = 1, softmax(logits, axis=1)
        else:
            axis, tokens = (2, 3), ops.shape(logits)[1]
            joint = ops.reshape(logits, (-1, tokens, experts * slots))
            joint = softmax(joint, axis=-1)
            weights = ops.reshape(joint, (-1, tokens, experts, slots))
        if seen is not None:
            weights = keep(seen, weights)
        if self.discrete:
            largest = ops.max(weights, axis=axis, keepdims=True)
            chosen = ops.logical_and(weights == largest, largest > 0)
            weights = ops.cast(chosen, weights.dtype)
        return weights


@renamed_fields("0.2", token="token_index", gate="combine_weights")
@dataclasses.dataclass(frozen=True)
class HardPlan:
    """Every capacity slot of an expert holds one whole token, or is empty.

    Args:
        token_index: int32 (G,E,S), the index inside its group of the token
            that slot s of expert e holds.
        combine_weights: float32 (G,E,S), the gate that multiplies the
            expert's output for that token; 0 is an empty slot.
        num_tokens: T, which the other two do not tell.
        mask: `None` or Boolean (G,T), which tokens there were to dispatch.

    `token` and `gate` are deprecated names of the first two; they warn and
    will be removed in 0.2.
    """

    token_index: Any
    combine_weights: Any
    num_tokens: Any
    mask: Any = None

    def weights(self):
        """Write out the pair `(dispatch, combine)`, each (G,T,E,S)."""
        return soften(self)


@dataclasses.dataclass(frozen=True)
class GroupedPlan:
    """Every token has all the experts that it chose: no capacity, no drops.

    The plan is kept as the choices. `by_expert` sorts the pairs of a token and
    an expert of it by expert, so that the rows of one expert are contiguous.

    Args:
        expert: int32 (G,T,k), the experts of each token, all different; E, the
            number of experts, where the token is masked or has fewer than k.
        gate: float32 (G,T,k), the weight of each of them in what the token
            gets; 0 where there is none.
        num_experts: E, which the other two do not tell.
        mask: `None` or Boolean (G,T), which tokens there were to route.
    """

    expert: Any
    gate: Any
    num_experts: int
    mask: Any = None

    def by_expert(self):
        """Sort the pairs of all groups by expert, tokens in order.

        Pair p = n·k + j is choice j of token n, counted through over groups.

        Returns:
            `order`, int32 (P,), P = G·T·k: the pairs, sorted; those of no
            expert come last. `bounds`, int32 (E+1,): the rows of expert e are
            those from `bounds[e]` up to, not including, `bounds[e + 1]`.
        """
        flat = ops.reshape(self.expert, (-1,))
        # Stable on all three backends, see routing.ascending.
        order = ops.cast(ops.argsort(flat, axis=0), "int32")
        ones = ops.ones_like(flat)[None, :, None]
        total = self.num_experts + 1
        counts = indexing.add(ones, flat[None], total)[0, :, 0]
        ends = ops.cumsum(counts, axis=0)
        return order, ops.cast(ends - counts, "int32")

    def gates(self):
        """Write out the gates, float32 (G,T,E): 0 for experts not chosen."""
        return self._spread(self.gate)

    def chosen(self):
        """Write out the choice, float32 (G,T,E): 1 for experts chosen."""
        return self._spread(ops.ones_like(self.gate))

    def _spread(self, values):
        """(G,T,k) -> (G,T,E)."""
        experts = ops.arange(0, self.num_experts, dtype="int32")
        total = 0.0
        for j in range(self.expert.shape[2]):
            here = self.expert[:, :, j, None] == experts
            total = total + keep(here, values[:, :, j, None])
        return total

    def weights(self):
        """Write out the pair `(dispatch, combine)`, each (G,T,E,S), S = T.

        Slot t of an expert is for token t: it reads it, or nothing.
        """
        tokens = ops.arange(0, ops.shape(self.gate)[1], dtype="int32")
        own = ops.cast(tokens[:, None] == tokens, self.gate.dtype)[:, None]
        return (
            self.chosen()[..., None] * own,
            self.gates()[..., None] * own,
        )


def softmax(x, axis):
    """`ops.softmax`, without its warning where it is over one entry."""
    if x.shape[axis] == 1:
        # Right for any size: a program traced on one token runs on more.
        return ops.exp(x - ops.logsumexp(x, axis=axis, keepdims=True))
    return ops.softmax(x, axis=axis)


def _per_expert(temperature):
    """A number stays one; a tensor (E,) meets the E of (G,T,E,S)."""
    if isinstance(temperature, (int, float)):
        return temperature
    return ops.reshape(temperature, (-1, 1))


def soften(plan: HardPlan):
    """Write a hard plan as the dense pair `(dispatch, combine)`.

    dispatch[g,t,e,s] = 1 if slot (e,s) holds token t, combine has its gate
    there. Returns two float32 arrays (G,T,E,S).
    """
    tokens = ops.arange(0, plan.num_tokens, dtype="int32")[
        :, None, None
    ]  # (T,1,1)
    held = ops.logical_and(
        plan.token_index[:, None] == tokens, plan.combine_weights[:, None] != 0
    )  # (G,T,E,S)
    dispatch = ops.cast(held, plan.combine_weights.dtype)
    return dispatch, dispatch * plan.combine_weights[:, None]

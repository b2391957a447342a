"""The definition of dispatch and combine: one product each, for any plan."""

from keras import ops


def dispatch(tokens, plan):
    """(G,T,D) -> (G,E,S,D): every slot reads the tokens its plan weighs."""
    weights, _ = plan.weights()
    return ops.einsum("gtes,gtd->gesd", ops.cast(weights, tokens.dtype), tokens)


def combine(slots, plan):
    """(G,E,S,D) -> (G,T,D): every token reads the slots its plan weighs."""
    _, weights = plan.weights()
    return ops.einsum("gtes,gesd->gtd", ops.cast(weights, slots.dtype), slots)

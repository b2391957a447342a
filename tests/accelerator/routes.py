"""Dispatch and combine without experts between, as functions of arrays."""

from keras import ops

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests.accelerator.items import names
from tests.accelerator.items import serves
from tests.accelerator.sizes import normal

# Bounds of |scale| to try, in turn: some implementations need one.
BOUNDS = (None, 40.0)


def soft(groups, tokens, features, experts, dtype):
    """Functions by name, and (tokens, embeddings, scale).

    As many slots as tokens. Routed in float32, read in `dtype`, as in mixed
    precision.
    """
    arrays = (
        normal((groups, tokens, features), dtype),
        normal((features, experts, tokens // experts), seed=1),
        ops.ones(()),
    )
    few = (arrays[0][:1, :8], arrays[1][:, :, :1], arrays[2])
    functions = {}
    for name in names("soft"):
        for bound in BOUNDS:
            if serves(name, _plan(*few, bound), dtype):
                functions[name] = _there_and_back(name, bound)
                break
    return functions, arrays


def _plan(tokens, embeddings, scale, bound):
    exact = ops.cast(tokens, "float32")
    return routing.soft_moe(exact, embeddings, scale, max_scale=bound)


def _there_and_back(name, bound):
    def function(tokens, embeddings, scale):
        plan = _plan(tokens, embeddings, scale, bound)
        prepared = moe_ops.make_dispatcher(plan, tokens.dtype, name)
        return prepared.combine(prepared.dispatch(tokens))

    return function


def hard(groups, tokens, features, experts, dtype):
    """Functions by name, and (tokens, gates): of Expert Choice."""
    gates = ops.softmax(normal((groups, tokens, experts)), axis=-1)
    chosen = routing.expert_choice(gates, tokens // experts)

    def made(name):
        def function(inputs, gate):
            plan = routing.HardPlan(chosen.token_index, gate, tokens)
            prepared = moe_ops.make_dispatcher(plan, inputs.dtype, name)
            return prepared.combine(prepared.dispatch(inputs))

        return function

    functions = {n: made(n) for n in names("hard") if serves(n, chosen, dtype)}
    return functions, (
        normal((groups, tokens, features), dtype),
        chosen.combine_weights,
    )


KINDS = {"soft": soft, "hard": hard}
# Products (tokens x slots x features) of the reference, forward.
PRODUCTS = {"soft": 3, "hard": 2}

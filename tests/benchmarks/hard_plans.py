"""Dispatch and combine of hard plans: gather against one-hot products.

The work timed is both steps of one plan without the experts between, forward
(F) or with the gradients of tokens and gates (FB).
"""

import numpy as np
from keras import ops
from tqdm import tqdm

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests.benchmarks import timing

FEATURES = 384
# groups, tokens, experts: ViT-sized groups, long ones, and small ones
SIZES = ((64, 16, 8), (16, 196, 16), (4, 1024, 32), (1, 4096, 32))


def rows():
    for groups, tokens, experts in tqdm(SIZES, desc=timing.BACKEND):
        rng = np.random.default_rng(0)
        gates = rng.normal(size=(groups, tokens, experts)).astype("float32")
        gates = ops.softmax(ops.convert_to_tensor(gates), axis=-1)
        plan = routing.expert_choice(gates, tokens // experts)
        inputs = rng.normal(size=(groups, tokens, FEATURES)).astype("float32")
        arrays = timing.tensors((inputs, plan.combine_weights))
        functions = {
            name: make(name, plan.token_index, tokens)
            for name in ("reference", "gather")
        }
        sizes = {
            "groups": groups,
            "tokens": tokens,
            "experts": experts,
            "features": FEATURES,
            "dtype": "float32",
        }
        yield from timing.compared(
            "hard dispatch+combine", sizes, functions, arrays, turns=9
        )


def make(name, token, num_tokens):
    """A function of (tokens, gate) that dispatches and combines."""

    def there_and_back(inputs, gate):
        plan = routing.HardPlan(token, gate, num_tokens)
        prepared = moe_ops.make_dispatcher(plan, inputs.dtype, name)
        return prepared.combine(prepared.dispatch(inputs))

    return there_and_back

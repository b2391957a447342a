"""Dispatch and combine of Soft MoE: one exponential, streaming, plain.

Timed is the routing from tokens and slot embeddings on, without the experts
between, forward (F) or with the gradients of tokens, embeddings and scale
(FB). `products` is what the products of the routing alone take, three F and
nine FB, each timed as the one of the logits.

    python -m tests.benchmarks.soft_routing NAME TOKENS MODE

prints the seconds of one run and the peak memory that it adds, in MiB.
"""

import sys

import numpy as np
from keras import ops
from tqdm import tqdm

from keras_moe import ops as moe_ops
from keras_moe import routing
from tests.benchmarks import timing

FEATURES = 384
NAMES = ("reference", "shared_exp", "streaming")
# groups, tokens, experts, slots of each
SIZES = (
    (16, 196, 28, 7),
    (4, 1024, 32, 32),
    (1, 4096, 32, 128),
    (4, 196, 196, 1),
)
MEMORY = (1024, 4096, 16384)  # tokens of one group, as many slots


def rows():
    for size in tqdm(SIZES, desc=timing.BACKEND):
        arrays = make_arrays(*size)
        for mode, wrap in timing.MODES.items():
            functions = {name: wrap(make(name)) for name in NAMES}
            functions["products"] = timing.forward(products)
            seconds = timing.paired(functions, arrays, turns=5)
            times = 3 if mode == "F" else 9
            seconds["products"] = [times * s for s in seconds["products"]]
            for columns in timing.against(seconds, "reference"):
                yield row(size, mode, columns)


def memory_rows():
    for tokens in tqdm(MEMORY, desc=f"{timing.BACKEND}, memory"):
        for mode in timing.MODES:
            for name in NAMES:
                found = timing.in_fresh_process(__name__, name, tokens, mode)
                size = (1, tokens, 32, tokens // 32)
                yield row(size, mode, {"of": name, **found})


def row(size, mode, columns, op="soft routing"):
    return {"op": op, "mode": mode, **size_columns(size), **columns}


def size_columns(size):
    groups, tokens, experts, slots = size
    return {
        "groups": groups,
        "tokens": tokens,
        "experts": experts,
        "slots": slots,
        "features": FEATURES,
        "dtype": "float32",
    }


def make_arrays(groups, tokens, experts, slots):
    rng = np.random.default_rng(0)
    return timing.tensors(
        (
            rng.normal(size=(groups, tokens, FEATURES)).astype("float32"),
            rng.normal(size=(FEATURES, experts, slots)).astype("float32"),
            np.float32(3.0),
        )
    )


def make(name):
    """A function of (tokens, embeddings, scale) that goes both ways."""

    def there_and_back(tokens, embeddings, scale):
        plan = routing.soft_moe(tokens, embeddings, scale)
        prepared = moe_ops.make_dispatcher(plan, tokens.dtype, name)
        return prepared.combine(prepared.dispatch(tokens))

    return there_and_back


def products(tokens, embeddings, scale):
    flat = ops.reshape(embeddings, (FEATURES, -1))
    return ops.matmul(ops.reshape(tokens, (-1, FEATURES)), flat)


if __name__ == "__main__":
    name, tokens, mode = sys.argv[1:]
    run = timing.MODES[mode](make(name))
    few = make_arrays(1, 64, 32, 2)
    many = make_arrays(1, int(tokens), 32, int(tokens) // 32)
    timing.print_peak(lambda: run(*few), lambda: run(*many))

"""Dropless token choice against its peer and its limit.

The peer is the block of KerasHub's Qwen3, which computes every expert for
every token; the limit one dense gated MLP of k·F hidden features, KerasHub's
too, which does as many multiplications. All have gated silu experts without
biases, and ours the peer's weights. `capacity` is the form with a capacity
factor of 1.25, which drops tokens.
"""

import functools
import sys

import numpy as np
from tqdm import tqdm

from keras_moe import layers
from tests.benchmarks import timing

FEATURES = 512
# experts, top_k, hidden features of an expert, tokens
SIZES = (
    (128, 8, 192, 1024),
    (128, 8, 192, 16),
    (128, 8, 192, 1),
    (8, 2, 1024, 1024),
    (8, 2, 1024, 1),
)
# Growth: in tokens, and in experts of equal work.
TOKENS = (1024, 4096, 16384, 65536)
MOST_WITH_GRADIENTS = 16384  # tokens; 65,536 take minutes a turn
EXPERTS = (8, 32, 128, 256)
FACTOR = 1.25


def dropless(experts, top_k, hidden, **options):
    return layers.TokenChoiceMoE(
        experts,
        top_k,
        intermediate_dim=hidden,
        activation="silu",
        gated=True,
        use_bias=False,
        **{"capacity_factor": None, **options},
    )


def peer(experts, top_k, hidden):
    from keras_hub.src.models.qwen3_moe import qwen3_moe_decoder

    return qwen3_moe_decoder.Qwen3SparseMoeBlock(
        FEATURES, hidden, experts, top_k, norm_top_k_prob=False
    )


def limit(hidden):
    from keras_hub.src.models.qwen3_moe import qwen3_moe_decoder

    return qwen3_moe_decoder.Qwen3MoeMLP(hidden, FEATURES)


def like_peer(layer, block, tokens):
    """Give our layer the weights of the block."""
    shape = (1, tokens, FEATURES)
    layer.build(shape)
    block.build(shape)
    router, gate_up, down = (w.numpy() for w in block.weights)
    gate, up = np.split(gate_up, 2, axis=-1)
    layer.router_kernel.assign(router)
    for name, kernel in (("gate", gate), ("up", up), ("down", down)):
        getattr(layer.experts, name).kernel.assign(kernel)


def competitors(experts, top_k, hidden, tokens, others=True):
    """Functions without arguments, of each mode, by names of theirs.

    Without `others`, ours and the limit alone.
    """
    shape = (1, tokens, FEATURES)
    ours = dropless(experts, top_k, hidden)
    made = {}
    if others:
        block = peer(experts, top_k, hidden)
        like_peer(ours, block, tokens)
        made["KerasHub"] = timing.layer_of_arrays(block, shape)
    made["dropless"] = timing.layer_of_arrays(ours, shape)
    if others:
        capacity = dropless(experts, top_k, hidden, capacity_factor=FACTOR)
        made["capacity"] = timing.layer_of_arrays(capacity, shape)
    made["dense MLP"] = timing.layer_of_arrays(limit(top_k * hidden), shape)
    return {
        mode: {
            name: functools.partial(wrap(_first(function)), *arrays)
            for name, (function, arrays) in made.items()
        }
        for mode, wrap in timing.MODES.items()
    }


def _first(function):
    """The peer returns its logits too."""

    def outputs(*arrays):
        result = function(*arrays)
        return result[0] if isinstance(result, tuple) else result

    return outputs


def _compared(op, size, others, turns):
    experts, top_k, hidden, tokens = size
    for mode, functions in competitors(*size, others=others).items():
        if mode == "FB" and tokens > MOST_WITH_GRADIENTS:
            continue
        seconds = timing.paired(functions, (), turns)
        for columns in timing.against(seconds, "dense MLP"):
            yield {
                "op": op,
                "mode": mode,
                "experts": experts,
                "top_k": top_k,
                "hidden": hidden,
                "tokens": tokens,
                **columns,
            }


def rows(turns=7):
    for size in tqdm(SIZES, desc=timing.BACKEND):
        yield from _compared("dropless layer", size, True, turns)


def growth_rows(turns=3):
    """Ours and the limit; the peer's arrays (E,T,F) would not fit."""
    for tokens in tqdm(TOKENS, desc=timing.BACKEND):
        size = (128, 8, 192, tokens)
        yield from _compared("more tokens", size, False, turns)
    for experts in tqdm(EXPERTS, desc=timing.BACKEND):
        size = (experts, 8, 192, 4096)
        yield from _compared("more experts", size, False, turns)


# Their arrays take far more memory than building a layer does.
LARGE = (SIZES[0], SIZES[3])


def memory_rows():
    """Forward, in a process of its own, beside the bound and the peer's array.

    The bound is 4·T·k·(D + 2F) numbers; the peer's array is (E,T,2F), not run.
    """
    for experts, top_k, hidden, _ in tqdm(LARGE, desc=timing.BACKEND):
        tokens = MOST_WITH_GRADIENTS
        sizes = (experts, top_k, hidden, tokens)
        bound = 16 * tokens * top_k * (FEATURES + 2 * hidden)
        yield {
            "op": "dropless layer, memory",
            "mode": "F",
            "experts": experts,
            "top_k": top_k,
            "hidden": hidden,
            "tokens": tokens,
            "of": "dropless",
            **timing.in_fresh_process(__name__, *sizes),
            "bound_mib": bound // 2**20,
            "peer_array_mib": 8 * experts * tokens * hidden // 2**20,
        }


def main(experts, top_k, hidden, tokens):
    layer = dropless(experts, top_k, hidden)
    function, arrays = timing.layer_of_arrays(layer, (1, tokens, FEATURES))
    run = timing.forward(function)
    timing.print_peak(
        lambda: run(arrays[0][:, :8], *arrays[1:]), lambda: run(*arrays)
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

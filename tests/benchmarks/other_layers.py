"""Whole layers of the other routers against their peers.

Mixture of Tokens against the plain formulas; token choice against the block of
KerasHub's Mixtral, which computes every expert for every token and keeps the
top two (gated experts without biases, as there). Ours computes
the capacity slots only: as many as the tokens choose experts (`capacity 1`), or
twice as many.
"""

import functools

from tqdm import tqdm

from keras_moe import layers
from tests.benchmarks import plain
from tests.benchmarks import timing

# batch, tokens, features, experts, tokens of a group
MIXTURES = ((32, 64, 256, 32, 8), (32, 64, 256, 32, 32), (32, 16, 512, 64, 32))
# batch, tokens, features, experts, hidden features of an expert
CHOICES = ((4, 256, 256, 32, 512), (1, 1024, 384, 32, 384))
TOP_K = 2


def mixture_rows():
    for size in tqdm(MIXTURES, desc=timing.BACKEND):
        batch, tokens, features, experts, group = size
        layer = layers.MixtureOfTokens(
            experts, group, intermediate_dim=4 * features * group // experts
        )
        shape = (batch, tokens, features)
        ours, arrays = timing.layer_of_arrays(layer, shape)
        formulas = functools.partial(plain.mixture_of_tokens, group_size=group)
        functions = {"plain": formulas, "MixtureOfTokens": ours}
        sizes = {
            "batch": batch,
            "tokens": tokens,
            "features": features,
            "experts": experts,
            "group_size": group,
        }
        yield from timing.compared(
            "Mixture of Tokens layer", sizes, functions, arrays, turns=9
        )


def choice_rows():
    from keras_hub.src.models.mixtral import mixtral_decoder

    for size in tqdm(CHOICES, desc=timing.BACKEND):
        batch, tokens, features, experts, hidden = size
        shape = (batch, tokens, features)
        peer = mixtral_decoder.MixtralSparseMoeBlock(
            features, hidden, experts, top_k=TOP_K
        )
        made = {"KerasHub": timing.layer_of_arrays(peer, shape)}
        for factor in (1.0, 2.0):
            made[f"capacity {factor:.0f}"] = timing.layer_of_arrays(
                token_choice(experts, hidden, factor), shape
            )
        for mode, wrap in timing.MODES.items():
            functions = {
                name: functools.partial(wrap(first_of(function)), *arrays)
                for name, (function, arrays) in made.items()
            }
            seconds = timing.paired(functions, (), turns=5)
            for columns in timing.against(seconds, "KerasHub"):
                yield {
                    "op": "token choice layer",
                    "mode": mode,
                    "batch": batch,
                    "tokens": tokens,
                    "features": features,
                    "experts": experts,
                    "hidden": hidden,
                    "top_k": TOP_K,
                    **columns,
                }


def token_choice(experts, hidden, factor):
    return layers.TokenChoiceMoE(
        experts,
        TOP_K,
        capacity_factor=factor,
        intermediate_dim=hidden,
        activation="silu",
        gated=True,
        use_bias=False,
    )


def first_of(function):
    """KerasHub's block returns its logits too."""

    def outputs(*arrays):
        result = function(*arrays)
        return result[0] if isinstance(result, tuple) else result

    return outputs

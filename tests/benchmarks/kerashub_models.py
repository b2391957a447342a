"""KerasHub's decoders with sparse experts against KerasHub's own code.

Blocks of 512 features, 8,192 words, E and k as published and F in proportion.
Each family runs in a process of its own.
"""

import functools
import json
import sys
import typing

import keras
import numpy as np
from tqdm import tqdm

from tests.benchmarks import timing

# E, k, F as published, scaled to 512 features.
SIZES = {
    "Mixtral": (8, 2, 1792),
    "Qwen1.5-MoE": (60, 4, 352),
    "Qwen3-MoE": (128, 8, 192),
    "Qwen3.5-MoE": (256, 8, 128),
    "gpt-oss": (32, 4, 512),
    "Gemma 4": (128, 8, 128),
}
BLOCK = (1, 1024)  # tokens of a single block


class Load(typing.NamedTuple):
    """Sizes of one comparison: blocks, tokens of each operation, turns."""

    blocks: int
    prompt: int
    new: int
    prefill: int
    trained: int
    turns: int


SHORT = Load(blocks=2, prompt=64, new=16, prefill=512, trained=256, turns=3)
# Two turns, as KerasHub's own code takes half a minute for some operations.
LONG = Load(blocks=4, prompt=256, new=64, prefill=1024, trained=256, turns=2)


def options(family, blocks=2):
    experts, top_k, hidden = SIZES[family]
    shared = {
        "vocabulary_size": 8192,
        "num_layers": blocks,
        "num_query_heads": 8,
        "num_key_value_heads": 2,
        "hidden_dim": 512,
        "num_experts": experts,
    }
    top = {"top_k": top_k}
    own = {
        "Mixtral": {"intermediate_dim": hidden, **top},
        "Qwen1.5-MoE": {
            "intermediate_dim": 512,
            "moe_intermediate_dim": hidden,
            "shared_expert_intermediate_dim": 1408,
            **top,
        },
        "Qwen3-MoE": {
            "intermediate_dim": 512,
            "moe_intermediate_dim": hidden,
            "head_dim": 64,
            **top,
        },
        "Qwen3.5-MoE": {
            "head_dim": 64,
            "moe_intermediate_dim": hidden,
            "shared_expert_intermediate_size": hidden,
            "layer_types": ["full_attention"] * blocks,
            **top,
        },
        "gpt-oss": {"intermediate_dim": hidden, "head_dim": 64, **top},
        "Gemma 4": {
            "intermediate_dim": 512,
            "head_dim": 64,
            "image_size": 16,
            "enable_moe_block": True,
            "expert_intermediate_dim": hidden,
            "num_experts_per_token": top_k,
        },
    }
    return shared | own[family]


def task(family, blocks=2):
    import keras_hub

    from tests.kerashub import models

    name = models.FAMILIES[family]
    keras.utils.set_random_seed(0)
    backbone = getattr(keras_hub.models, f"{name}Backbone")
    made = getattr(keras_hub.models, f"{name}CausalLM")(
        backbone=backbone(**options(family, blocks)), preprocessor=None
    )
    made.compile(
        sampler="greedy",
        optimizer="sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return made


def inputs(family, batch, length, known=None):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 8192, (batch, length)).astype("int32")
    mask = np.arange(length) < (known or length)
    found = {
        "token_ids": tokens,
        "padding_mask": np.tile(mask, (batch, 1)).astype("int32"),
    }
    if family == "Gemma 4":
        found["position_ids"] = np.tile(np.arange(length), (batch, 1))
    return found


def operations(family, model, load, training=True):
    """Triples of the operation, the batch and a function, of a model."""
    length = load.prompt + load.new
    batches = {
        f"generate {load.new} after {load.prompt}": [
            inputs(family, batch, length, load.prompt) for batch in (1, 8)
        ],
        f"prefill {load.prefill}": [inputs(family, 1, load.prefill)],
    }
    for op, given in batches.items():
        for one in given:
            if op.startswith("generate"):
                run = functools.partial(
                    model.generate, one, stop_token_ids=None
                )
            else:
                run = functools.partial(model.predict_on_batch, one)
            yield op, len(one["token_ids"]), run
    if training:
        one = inputs(family, 1, load.trained)
        yield (
            f"training step {load.trained}",
            1,
            functools.partial(model.train_on_batch, one, one["token_ids"]),
        )


def block_operations(family, model):
    """The same of the first block with experts alone, forward."""
    from keras_moe.kerashub import sparse

    known, layer = sparse.found(model)[0]
    for tokens in BLOCK:
        given, called = [_normal(1, tokens, 512)], layer
        if family == "Gemma 4":
            scores = _scores(tokens, *SIZES[family][:2])
            given, called = [given[0][0], scores], known.block_of(layer)
        run = timing.forward(_of_arrays(called))
        arrays = [weight.value for weight in called.weights]
        arrays += timing.tensors(given)
        yield f"block, {tokens} tokens", 1, functools.partial(run, *arrays)


def _normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _scores(tokens, experts, top_k):
    """Gates of top_k experts, zero for the others."""
    values = _normal(tokens, experts)
    chosen = values >= np.sort(values, axis=1)[:, -top_k, None]
    return (chosen / top_k).astype("float32")


def _of_arrays(layer):
    """Its first output, as a function of the arrays of weights and inputs."""

    def outputs(*arrays):
        number = len(layer.weights)
        mapping = list(zip(layer.weights, arrays[:number]))
        with keras.StatelessScope(mapping):
            made = layer(*arrays[number:])
        return made[0] if isinstance(made, tuple) else made

    return outputs


def compared(family, made, first, load, training=True):
    functions = {}
    for name, model in made.items():
        # Training is last, as on JAX it takes the arrays that others read.
        for op, batch, run in (
            *block_operations(family, model),
            *operations(family, model, load, training),
        ):
            functions.setdefault((op, batch), {})[name] = run
    experts, top_k, hidden = SIZES[family]
    for (op, batch), own in functions.items():
        seconds = timing.paired(own, (), load.turns)
        for columns in timing.against(seconds, first):
            yield {
                "family": family,
                "op": op,
                "experts": experts,
                "top_k": top_k,
                "hidden": hidden,
                "batch": batch,
                **columns,
            }


def family_rows(family, load=SHORT):
    """Times of one family, against KerasHub's."""
    import keras_moe

    made = {name: task(family, load.blocks) for name in ("KerasHub", "sparse")}
    keras_moe.use_sparse_experts(made["sparse"])
    yield from compared(family, made, "KerasHub", load)


def quantised_rows(family):
    """Times of quantised experts against float ones, and errors of logits."""
    import keras_moe

    made = {name: task(family) for name in ("float", "int8", "int4")}
    keras_moe.use_sparse_experts(made["float"])
    for mode in ("int8", "int4"):
        keras_moe.quantize_experts(made[mode], mode)
    found = errors(family, made)
    for row in compared(family, made, "float", SHORT, training=False):
        yield row | found[row["of"]]


def errors(family, made):
    """Of logits and of the first block's outputs, in the Euclidean norm."""
    outputs = {}
    for name, model in made.items():
        given = inputs(family, 1, SHORT.prefill)
        *_, (_, _, block) = block_operations(family, model)
        outputs[name] = (
            keras.ops.convert_to_numpy(block()),
            model.predict_on_batch(given),
        )
    norm, found = np.linalg.norm, {}
    for name, pair in outputs.items():
        block, logits = (
            f"{norm(one - other) / norm(other):.4f}"
            for one, other in zip(pair, outputs["float"])
        )
        found[name] = {"block_error": block, "logits_error": logits}
    return found


def in_processes(kind, families):
    for family in tqdm(families, desc=timing.BACKEND):
        words = timing.words_of(__name__, kind, family.replace(" ", "_"))
        yield from json.loads(" ".join(words[words.index("ROWS") + 1 :]))


KINDS = {
    "family": family_rows,
    "long": functools.partial(family_rows, load=LONG),
    "quantised": quantised_rows,
}


def rows():
    return in_processes("family", SIZES)


def long():
    return in_processes("long", SIZES)


def quantised():
    return in_processes("quantised", ("Mixtral", "Qwen3-MoE", "gpt-oss"))


def main(kind, family):
    print("ROWS", json.dumps(list(KINDS[kind](family.replace("_", " ")))))


if __name__ == "__main__":
    main(*sys.argv[1:])

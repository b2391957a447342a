"""KerasHub's decoders with sparse experts against KerasHub's own code.

Two blocks of 512 features, 8,192 words, E and k as published and F in
proportion. Each family runs in a process of its own.
"""

import functools
import json
import pathlib
import sys
import tempfile

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
PROMPT, NEW, PREFILL, TRAINED = 64, 16, 512, 256  # tokens
BLOCK = (1, 1024)  # tokens of a single block
TURNS = 3


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


def operations(family, model, training=True):
    """{op: (batch, tokens, function)} of a model."""
    batches = {
        f"generate {NEW} after {PROMPT}": [
            inputs(family, batch, PROMPT + NEW, PROMPT) for batch in (1, 8)
        ],
        f"prefill {PREFILL}": [inputs(family, 1, PREFILL)],
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
        one = inputs(family, 1, TRAINED)
        yield (
            f"training step {TRAINED}",
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


def compared(family, made, first, training, turns):
    functions = {}
    for name, model in made.items():
        # Training is last, as on JAX it takes the arrays that others read.
        for op, batch, run in (
            *block_operations(family, model),
            *operations(family, model, training),
        ):
            functions.setdefault((op, batch), {})[name] = run
    experts, top_k, hidden = SIZES[family]
    for (op, batch), own in functions.items():
        seconds = timing.paired(own, (), turns)
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


def family_rows(family):
    """Times of one family, against KerasHub's."""
    import keras_moe

    made = {"KerasHub": task(family), "sparse": task(family)}
    keras_moe.use_sparse_experts(made["sparse"])
    yield from compared(family, made, "KerasHub", True, TURNS)


def quantised_rows(family):
    """Times of quantised experts against float ones, and errors of logits."""
    import keras_moe

    made = {name: task(family) for name in ("float", "int8", "int4")}
    keras_moe.use_sparse_experts(made["float"])
    for mode in ("int8", "int4"):
        keras_moe.quantize_experts(made[mode], mode)
    found = errors(family, made)
    for row in compared(family, made, "float", False, TURNS):
        yield row | found[row["of"]]


def errors(family, made):
    """Of logits and of the first block's outputs, in the Euclidean norm."""
    outputs = {}
    for name, model in made.items():
        given = inputs(family, 1, PREFILL)
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


def rows():
    return in_processes("family", SIZES)


def quantised():
    return in_processes("quantised", ("Mixtral", "Qwen3-MoE", "gpt-oss"))


# === Memory ===

MEMORY = {"KerasHub": 4096, "sparse": 4096, "int8": 4096, "int4": 4096}


def memory():
    """Prefill of 4,096 tokens, one block of 128 experts, 8 a token."""
    for name, tokens in tqdm(MEMORY.items(), desc=timing.BACKEND):
        yield {
            "op": f"prefill {tokens}, Qwen3-MoE, one block",
            "of": name,
            **timing.in_fresh_process(__name__, "memory", name, tokens),
        }


def prefill(name, tokens):
    import keras_moe

    model = task("Qwen3-MoE", blocks=1)
    change(keras_moe, model, name)
    backbone = model.backbone

    def run(tokens):
        backbone.predict_on_batch(inputs("Qwen3-MoE", 1, tokens))

    timing.print_peak(lambda: run(8), lambda: run(int(tokens)))


def change(keras_moe, model, name):
    if name == "sparse":
        keras_moe.use_sparse_experts(model)
    elif name != "KerasHub":
        keras_moe.quantize_experts(model, name)


# 128 experts of 320 hidden features, 1,024 features: 503 MB a block in float.
LARGE = {"blocks": 4, "hidden_dim": 1024, "moe_intermediate_dim": 320}


def loading():
    """A model with 2 GB of experts read from a file of KerasHub's."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "large.weights.h5"
        timing.words_of(__name__, "save", path)
        for name in tqdm(("KerasHub", "afterwards", "int8", "int4")):
            found = timing.in_fresh_process(__name__, "load", name, path)
            yield {
                "op": "reading 2 GB of experts",
                "of": name,
                "peak_extra_mib": found["peak_extra_mib"],
            }


def large():
    import keras_hub

    sizes = dict(LARGE)
    given = options("Qwen3-MoE", sizes.pop("blocks")) | sizes
    return keras_hub.models.Qwen3MoeBackbone(**given)


def load(name, path):
    import keras_moe
    from tests.kerashub import models as tiny

    def read():
        if name in ("int8", "int4"):
            with keras_moe.quantize_while_loading(name):
                model = large()
                model.load_weights(path)
        else:
            model = large()
            model.load_weights(path)
            if name == "afterwards":
                keras_moe.quantize_experts(model, "int8")

    timing.print_peak(lambda: tiny.backbone("Qwen3-MoE"), read)


def main(kind, name, *others):
    name = name.replace("_", " ") if kind in ("family", "quantised") else name
    if kind == "save":
        large().save_weights(name)
    elif kind == "memory":
        prefill(name, *others)
    elif kind == "load":
        load(name, *others)
    else:
        make = {"family": family_rows, "quantised": quantised_rows}[kind]
        print("ROWS", json.dumps(list(make(name))))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Peak memory of KerasHub's decoders with their own, sparse and small experts.

Each figure is of a process of its own.
"""

import pathlib
import sys
import tempfile

from tqdm import tqdm

from tests.benchmarks import timing
from tests.benchmarks.kerashub_models import inputs
from tests.benchmarks.kerashub_models import options
from tests.benchmarks.kerashub_models import task

MODELS = ("KerasHub", "sparse", "int8", "int4")
TOKENS = 4096


def memory():
    """Prefill of 4,096 tokens, one block of 128 experts, 8 a token."""
    for name in tqdm(MODELS, desc=timing.BACKEND):
        yield {
            "op": f"prefill {TOKENS}, Qwen3-MoE, one block",
            "of": name,
            **timing.in_fresh_process(__name__, "memory", name, TOKENS),
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


MEASURES = {"memory": prefill, "load": load}


def main(kind, *arguments):
    if kind == "save":
        large().save_weights(*arguments)
    else:
        MEASURES[kind](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""python -m tests.benchmarks.mot_memory: a language model of 573M parameters.

Writes a checkpoint of the published Mixture of Tokens model's size, 2.29 GB in
the `mot` format, in one file and in shards; converts it, and reads it on the
fly, each in a process of its own; and appends what that took to
results/conversion.csv: the peak memory beyond that of the imports. Needs Linux,
and room for three such files. `KERAS_BACKEND` chooses what reads on the fly.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np

from tests.benchmarks import conversion_memory
from tests.conversion import texts

CONFIG = {
    "model_type": "mot",
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 512,
    "n_layer": 8,
    "n_head": 8,
    "n_expert": 256,
    "group_size": 32,
}
EXPERT = 256  # hidden features
SHARDS = 4
# What a model of any size takes is set up before, by a small one.
CHILD = """
import json, sys, time
from conversion import mot
from keras_moe.models import MoTCausalLM
from tests.benchmarks.memory import peak
def convert(source):
    mot.convert_mot(source, sys.argv[3])
how = {"convert": convert, "on the fly": MoTCausalLM.from_preset}[sys.argv[1]]
how(sys.argv[4])
before, start = peak(), time.perf_counter()
kept = how(sys.argv[2])
print(json.dumps([peak() - before, before, time.perf_counter() - start]))
"""


def shapes():
    """{name: shape} of all tensors."""
    features, experts = CONFIG["n_embd"], CONFIG["n_expert"]
    found = {
        "transformer.wte.weight": (CONFIG["vocab_size"], features),
        "transformer.wpe.weight": (CONFIG["n_positions"], features),
        "transformer.ln_f.weight": (features,),
        "transformer.ln_f.bias": (features,),
    }
    for index in range(CONFIG["n_layer"]):
        block = f"transformer.h.{index}."
        for name, shape in {
            "attn.c_attn.weight": (features, 3 * features),
            "attn.c_attn.bias": (3 * features,),
            "attn.c_proj.weight": (features, features),
            "attn.c_proj.bias": (features,),
            "mlp.controller": (features, experts),
            "mlp.lin1": (experts, features, EXPERT),
            "mlp.lin2": (experts, EXPERT, features),
            "ln_1.weight": (features,),
            "ln_1.bias": (features,),
            "ln_2.weight": (features,),
            "ln_2.bias": (features,),
        }.items():
            found[block + name] = shape
    return found


def write(folder):
    """Write the checkpoint in one file and in shards.

    Returns:
        {how it is stored: its folder}, its bytes, its largest array's bytes
        and the number of its parameters.
    """
    rng = np.random.default_rng(0)
    tensors = {
        name: 0.02 * rng.standard_normal(shape, "float32")
        for name, shape in shapes().items()
    }
    sizes = [array.nbytes for array in tensors.values()]
    folders = {
        "one file": texts.write_mot(folder / "one", CONFIG, tensors),
        f"{SHARDS} shards": texts.write_mot(
            folder / "shards", CONFIG, tensors, SHARDS
        ),
    }
    return folders, sum(sizes), max(sizes), sum(sizes) // 4


def main():
    with tempfile.TemporaryDirectory(dir=pathlib.Path.home()) as folder:
        folder = pathlib.Path(folder)
        small = texts.write_mot(folder / "small")
        folders, size, largest, count = write(folder)
        for how in ("convert", "on the fly"):
            for stored, source in folders.items():
                out = folder / "out"
                command = [sys.executable, "-c", CHILD, how, source, out, small]
                done = subprocess.run(
                    list(map(str, command)),
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                shutil.rmtree(out, ignore_errors=True)
                conversion_memory.record(
                    f"mot, {stored}, {how}, {keras.backend.backend()}",
                    count,
                    size,
                    largest,
                    done.stdout,
                )


if __name__ == "__main__":
    main()

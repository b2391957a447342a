"""python -m tests.benchmarks.conversion_memory: a checkpoint of 1 GB.

Writes a checkpoint of a Soft MoE ViT S/16 with 32 experts, converts it in a
process of its own, and appends what that took to results/conversion.csv: its
peak memory beyond that of the imports, against the checkpoint and its largest
array. Needs Linux.
"""

import csv
import json
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np

from conversion.vmoe_names import source_name
from keras_moe.models import MoEViTBackbone
from keras_moe.models import MoEViTImageClassifier
from keras_moe.models import weight_shapes
from keras_moe.models.vision import architectures
from tests.conversion import writer

RESULTS = pathlib.Path(__file__).parent / "results" / "conversion.csv"
CHILD = """
import json, sys, time
from conversion import convert
from tests.benchmarks.memory import peak
# What a model of any size takes: all that is imported and set up late.
convert.convert_vmoe(sys.argv[1], sys.argv[2] + "-small")
before, start = peak(), time.perf_counter()
convert.convert_vmoe(sys.argv[3], sys.argv[2])
print(json.dumps([peak() - before, before, time.perf_counter() - start]))
"""


def arrays(experts, **changes):
    """{vmoe's path: array} of random parameters."""

    def make():
        config = architectures.get("soft_moe_s16")
        options = {"num_experts": experts, "slots_per_expert": 1}
        config.update(router_options=options, **changes)
        return MoEViTImageClassifier(
            MoEViTBackbone(**config), 1000, compile=False
        )

    rng = np.random.default_rng(0)
    made = {}
    for path, shape in weight_shapes(make).items():
        name = source_name(path)
        if name.endswith("/bias") and "/Moe/" in name:
            shape = (shape[0], *shape[2:])
        made[name] = rng.standard_normal(shape, "float32")
    return made


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        small = writer.checkpoint(folder / "small", arrays(2, mlp_dim=8))
        parameters = arrays(32)
        size = sum(a.nbytes for a in parameters.values())
        largest = max(a.nbytes for a in parameters.values())
        count = sum(a.size for a in parameters.values())
        big = writer.checkpoint(folder / "big", parameters, shards=4, parts=4)
        del parameters
        done = subprocess.run(
            [sys.executable, "-c", CHILD, small, str(folder / "out"), big],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    record("vmoe, 4 shards, convert", count, size, largest, done.stdout)


def record(what, count, size, largest, printed):
    """Append a row to the results.

    Args:
        what: was done.
        count: of the parameters.
        size: bytes of the checkpoint.
        largest: bytes of its largest array.
        printed: by the child, last of all its peak of memory beyond that
            before, that before, and the seconds it took.
    """
    extra, before, seconds = json.loads(printed.splitlines()[-1])
    row = {
        "what": what,
        "python": platform.python_version(),
        "parameters": count,
        "checkpoint_mb": round(size / 1e6),
        "largest_array_mb": round(largest / 1e6),
        "memory_before_mb": round(before / 1e6),
        "peak_beyond_mb": round(extra / 1e6),
        "seconds": round(seconds, 1),
    }
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        rows = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            rows.writeheader()
        rows.writerow(row)
    print(row)


if __name__ == "__main__":
    main()

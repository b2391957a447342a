"""Time dispatch and combine of hard plans: gather against one-hot products.

    KERAS_BACKEND=jax python -m tests.benchmarks

Writes one CSV for the running backend, which `keras_moe.ops.select` cites. The
two implementations take turns in one process; a row holds the median seconds
of each and the median, smallest and largest of the ratio, turn by turn. The
work timed is dispatch and combine of one plan without the experts between,
forward (F) or with the gradients of tokens and gates (FB).
"""

import csv
import importlib.metadata
import pathlib
import platform
import statistics
import time

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from keras_moe import ops as moe_ops
from keras_moe import routing

BACKEND = keras.backend.backend()
RESULTS = pathlib.Path(__file__).parent / "results"
FEATURES = 384
TURNS = 9
# groups, tokens, experts: ViT-sized groups, long ones, and small ones
SIZES = ((64, 16, 8), (16, 196, 16), (4, 1024, 32), (1, 4096, 32))


def plan_and_tokens(groups, tokens, experts):
    rng = np.random.default_rng(0)
    gates = rng.normal(size=(groups, tokens, experts)).astype("float32")
    gates = ops.softmax(ops.convert_to_tensor(gates), axis=-1)
    x = rng.normal(size=(groups, tokens, FEATURES)).astype("float32")
    plan = routing.expert_choice(gates, tokens // experts)
    return ops.convert_to_numpy(plan.token), ops.convert_to_numpy(plan.gate), x


def make(name, token, num_tokens):
    """A function of (tokens, gate) that dispatches and combines."""
    token = ops.convert_to_tensor(token)

    def there_and_back(x, gate):
        plan = routing.HardPlan(token, gate, num_tokens)
        slots = moe_ops.dispatch(x, plan, name)
        return moe_ops.combine(slots, plan, name)

    return there_and_back


def forward(function):
    if BACKEND == "jax":
        import jax

        compiled = jax.jit(function)
        return lambda *arrays: compiled(*arrays).block_until_ready()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import torch

    return torch.no_grad()(function)


def forward_backward(function):
    if BACKEND == "jax":
        import jax

        grad = jax.jit(
            jax.grad(lambda *arrays: function(*arrays).sum(), argnums=(0, 1))
        )
        return lambda *arrays: jax.block_until_ready(grad(*arrays))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(*arrays):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                total = tf.reduce_sum(function(*arrays))
            return tape.gradient(total, arrays)

        return step
    import torch

    def step(*arrays):
        arrays = [a.detach().requires_grad_() for a in arrays]
        return torch.autograd.grad(function(*arrays).sum(), arrays)

    return step


def seconds(function, arrays):
    start = time.perf_counter()
    function(*arrays)
    return time.perf_counter() - start


def rows():
    for size in tqdm(SIZES, desc=BACKEND):
        token, *arrays = plan_and_tokens(*size)
        arrays = [ops.convert_to_tensor(a) for a in reversed(arrays)]
        for mode, wrap in (("F", forward), ("FB", forward_backward)):
            one_hot, gather = (
                wrap(make(name, token, size[1]))
                for name in ("reference", "gather")
            )
            seconds(one_hot, arrays), seconds(gather, arrays)  # compile
            pairs = [
                (seconds(one_hot, arrays), seconds(gather, arrays))
                for _ in range(TURNS)
            ]
            ratios = [g / o for o, g in pairs]
            yield {
                "op": "hard dispatch+combine",
                "mode": mode,
                "groups": size[0],
                "tokens": size[1],
                "experts": size[2],
                "features": FEATURES,
                "dtype": "float32",
                "reference_s": f"{statistics.median(p[0] for p in pairs):.5f}",
                "gather_s": f"{statistics.median(p[1] for p in pairs):.5f}",
                "gather/reference": f"{statistics.median(ratios):.3f}",
                "smallest": f"{min(ratios):.3f}",
                "largest": f"{max(ratios):.3f}",
            }


def main():
    version = importlib.metadata.version(BACKEND).split("+")[0]
    path = RESULTS / f"hard_plans-{BACKEND}-{version}-cpu.csv"
    table = list(rows())
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(path.read_text())
    print(f"{platform.machine()}, keras {keras.__version__}; {path.name}")


if __name__ == "__main__":
    main()

"""Run benchmarks on the running backend and write their tables.

    KERAS_BACKEND=jax OMP_NUM_THREADS=1 python -m tests.benchmarks [names]

Without names, all that the backend has. A benchmark is a function that yields
rows, dictionaries with the same keys; add one by adding a line to `TABLES`.
`keras_moe.ops.AUTOMATIC` cites the tables, which are in `results/`.
"""

import sys

from tests.benchmarks import contrastive_loss
from tests.benchmarks import embedding
from tests.benchmarks import grouped
from tests.benchmarks import hard_plans
from tests.benchmarks import huge_pages
from tests.benchmarks import kerashub_memory
from tests.benchmarks import kerashub_models
from tests.benchmarks import native
from tests.benchmarks import other_layers
from tests.benchmarks import recomputed
from tests.benchmarks import soft_moe_layers
from tests.benchmarks import soft_routing
from tests.benchmarks import timing
from tests.benchmarks import whole_models

EVERYWHERE = ("jax", "tensorflow", "torch")
TABLES = {
    "hard_plans": (hard_plans.rows, EVERYWHERE),
    "soft_routing": (soft_routing.rows, EVERYWHERE),
    "soft_routing_memory": (soft_routing.memory_rows, EVERYWHERE),
    "soft_moe_layers": (soft_moe_layers.rows, EVERYWHERE),
    "keras_overhead": (native.rows, EVERYWHERE),
    "mixture_of_tokens_layers": (other_layers.mixture_rows, EVERYWHERE),
    "token_choice_layers": (other_layers.choice_rows, EVERYWHERE),
    "grouped": (grouped.rows, EVERYWHERE),
    "grouped_growth": (grouped.growth_rows, EVERYWHERE),
    "grouped_memory": (grouped.memory_rows, EVERYWHERE),
    "contrastive_loss": (contrastive_loss.rows, EVERYWHERE),
    "embedding": (embedding.rows, EVERYWHERE),
    "whole_models": (whole_models.rows, EVERYWHERE),
    "soft_moe_experts": (soft_moe_layers.experts_rows, EVERYWHERE),
    "kerashub_models": (kerashub_models.rows, EVERYWHERE),
    "kerashub_quantised": (kerashub_models.quantised, EVERYWHERE),
    "kerashub_long": (kerashub_models.long, EVERYWHERE),
    "kerashub_memory": (kerashub_memory.memory, EVERYWHERE),
    "kerashub_loading": (kerashub_memory.loading, ("torch",)),
    "recomputed": (recomputed.rows, EVERYWHERE),
    "huge_pages": (huge_pages.rows, ("torch",)),
}


def main(names):
    here = [n for n, (_, on) in TABLES.items() if timing.BACKEND in on]
    unknown = sorted(set(names) - set(here))
    if unknown:
        raise SystemExit(
            f"names must be among {', '.join(here)} on {timing.BACKEND}; "
            f"received {', '.join(unknown)}"
        )
    for name in names or here:
        timing.write(name, TABLES[name][0]())


if __name__ == "__main__":
    main(sys.argv[1:])

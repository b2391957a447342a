"""Contrastive losses: the whole (B,B) logits against chunks of rows.

Timed is the loss with the gradients of embeddings, scale and bias. The memory
is what such a run adds, in a process of its own.

    python -m tests.benchmarks.contrastive_loss KIND FORM

prints the seconds of one run and the peak memory that it adds, in MiB.
"""

import sys

import numpy as np

from keras_moe import losses
from tests.benchmarks import timing

PAIRS, FEATURES, CHUNK = 4096, 512, 128
FORMS = {"plain": None, "chunked": CHUNK}


def rows():
    for kind in losses.KINDS:
        functions = {
            form: timing.forward_backward(make(kind, form)) for form in FORMS
        }
        seconds = timing.paired(functions, make_arrays(PAIRS), turns=5)
        for columns in timing.against(seconds, "plain"):
            form = columns.pop("of")
            memory = timing.in_fresh_process(__name__, kind, form)
            yield {
                "op": "contrastive loss",
                "mode": "FB",
                "kind": kind,
                "pairs": PAIRS,
                "features": FEATURES,
                "dtype": "float32",
                "chunk_size": FORMS[form],
                "of": form,
                **columns,
                "peak_extra_mib": memory["peak_extra_mib"],
            }


def make_arrays(pairs):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, pairs, FEATURES)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return timing.tensors((*embeddings, np.float32(10.0), np.float32(-10.0)))


def make(kind, form):
    def loss(*arrays):
        return losses.contrastive_loss(
            *arrays, kind=kind, chunk_size=FORMS[form]
        )

    return loss


def ahead(function, arrays):
    """The gradients, compiled already: compilers need memory of their own."""
    if timing.BACKEND != "jax":
        return timing.forward_backward(function)
    import jax

    compiled = jax.jit(timing.jax_gradients(function)).lower(*arrays).compile()
    return lambda *arrays: jax.block_until_ready(compiled(*arrays))


if __name__ == "__main__":
    kind, form = sys.argv[1:]
    few, many = make_arrays(64), make_arrays(PAIRS)
    warm = timing.forward_backward(make(kind, form))
    run = ahead(make(kind, form), many)
    timing.print_peak(lambda: warm(*few), lambda: run(*many))

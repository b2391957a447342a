"""Every implementation against the reference: outputs and gradients.

On cases of `tests.parity` that it serves, in float32 and bfloat16.
"""

import contextlib
import functools

import numpy as np
from keras import ops

from keras_moe import ops as moe_ops
from tests import contract_table
from tests import host_reads
from tests import parity
from tests import support
from tests.accelerator.chip import BACKEND
from tests.accelerator.items import Item
from tests.accelerator.items import kinds
from tests.accelerator.items import names
from tests.accelerator.items import serves

DTYPES = ("float32", "bfloat16")


def items(chip):
    if BACKEND == "jax" and chip.kind == "cpu":
        import jax

        # Most of the time goes into making small programs quick.
        jax.config.update("jax_disable_most_optimizations", True)
    for kind in kinds():
        for name in names(kind):
            for dtype in DTYPES:
                label = f"{name}, {kind} plans, {dtype}"
                if (name, dtype) != ("reference", "float32"):
                    run = functools.partial(compare, name, kind, dtype)
                    yield Item("parity", label, run)


def compare(name, kind, dtype):
    """One row; raises with the names of all cases that differ."""
    cases = [case._replace(dtype=dtype) for case in cases_of(kind, dtype)]
    if not cases:
        return compare_layers(name, kind, dtype)
    prepare = moe_ops.IMPLEMENTATIONS[name].prepare
    served, differing = 0, {}
    with exact_products():
        for case in cases:
            weights = map(ops.convert_to_tensor, case.weights)
            if not serves(name, case.plan(*weights), dtype):
                continue
            served += 1
            try:
                parity.assert_same(prepare, case)
            except AssertionError as error:
                lines = str(error).strip().split("\n")
                differing[case.name] = " ".join(lines[:6])
    if differing:
        raise AssertionError(f"{len(differing)} of {served}: {differing}")
    return [row(kind, dtype, name, served, len(cases) - served)]


def row(kind, dtype, name, served, others):
    return {
        "op": "parity with the reference",
        "kind": kind,
        "dtype": dtype,
        "of": name,
        "cases": served,
        "not_served": others,
    }


def cases_of(kind, dtype):
    """All cases; in bfloat16 the plain one, those with masks, and its own.

    JAX compiles each, which takes time. Others have gradients so steep that
    their rounding in bfloat16 is as large as they are.
    """
    cases = parity.cases(kind)
    if dtype == "float32":
        return [case for case in cases if case.dtype == dtype]
    chosen = ("ragged", "masked", dtype)
    return [case for case in cases if any(w in case.name for w in chosen)]


def compare_layers(name, kind, dtype):
    """The same for whole layers, where slots of a kind have their own shape."""
    rows = 0
    for label in (n for n in contract_table.LAYERS if n.startswith("dropless")):
        for masked in (False, True):
            # In one dtype: where ReLU bends, rounding turns gradients over.
            policy = dtype if dtype == "float32" else f"mixed_{dtype}"
            expected = _layer(label, "reference", policy, masked)
            found = _layer(label, name, policy, masked)
            for what, value in expected.items():
                largest = max(np.abs(value).max(), 1.0)
                np.testing.assert_allclose(
                    found[what],
                    value,
                    rtol=2e-5,
                    atol=1e-5 + parity.ROUNDING[dtype] * largest,
                    err_msg=f"{label}: {what}",
                )
            rows += 1
    if not rows:
        raise AssertionError(f"no layer here has {kind} plans")
    return [row(kind, dtype, name, rows, 0)]


def _layer(label, name, policy, masked):
    """Outputs and gradients by name, of weights that are always the same."""
    layer = contract_table.make(label, implementation=name, dtype=policy)
    tokens = contract_table.tokens_of(*host_reads.SHAPE)
    layer.build(tokens.shape)
    contract_table.randomize(layer)
    for weight in layer.weights:
        if "kernel" in weight.path:
            drawn = np.random.default_rng(1).normal(size=weight.shape)
            weight.assign(0.3 * drawn)  # as bfloat16 can bear
    mask = np.tile(np.arange(host_reads.SHAPE[1]) < 6, (len(tokens), 1))
    outputs, _, grads = support.layer_grads(
        layer, tokens, np.ones_like(tokens), mask if masked else None
    )
    return {"outputs": outputs, **grads}


def exact_products():
    """JAX multiplies float32 in fewer bits on accelerators, unless told."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision("highest")

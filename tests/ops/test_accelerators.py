"""What JAX runs elsewhere than on CPUs: kernels, and programs without branches.

Pallas kernels are interpreted.
"""

import numpy as np
import pytest

from keras_moe import layers
from keras_moe import ops as moe_ops
from keras_moe.ops import cpu
from keras_moe.ops import selection
from keras_moe.ops import streaming
from tests import parity
from tests import support
from tests.built import UNDRAWN
from tests.ops.test_soft_routing import loss
from tests.ops.test_soft_routing import operations
from tests.ops.test_soft_routing import tokens_and_embeddings

# The other backends have nothing of the kind.
KERNELS = ["masked"] if support.BACKEND == "jax" else []
TUNED = [
    case.name
    for case in parity.cases("soft")
    if support.BACKEND == "jax"
    and ("scale" in case.name or "unit" in case.name)
    and "noise" not in case.name
    and "float16" not in case.name.split(", ")
]


@pytest.fixture
def interpreted(monkeypatch):
    from jax.experimental.pallas import tpu

    monkeypatch.setattr(selection, "kind_of", lambda array: "tpu")
    with tpu.force_tpu_interpret_mode():
        yield


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_the_reference(name, interpreted):
    parity.assert_same(streaming.prepare, parity.case("soft", name))


@pytest.mark.parametrize("device", ["gpu", "tpu"] if KERNELS else [])
@pytest.mark.parametrize("max_scale", [None, 40.0])
def test_auto_has_no_branch_on_accelerators(device, max_scale, monkeypatch):
    monkeypatch.setattr(selection, "kind_of", lambda array: device)
    layer = layers.SoftMoE(
        4, 3, intermediate_dim=4, max_scale=max_scale, **UNDRAWN
    )
    tokens = np.ones((2, 6, 5), "float32")
    layer.build(tokens.shape)
    made = operations(lambda x: layer(x).sum(), tokens)
    assert not {"cond", "linear_with_transpose_by_hand"} & {n for n, _ in made}


@pytest.mark.parametrize("platform", ["cuda", "tpu"] if KERNELS else [])
@pytest.mark.parametrize("name", [*moe_ops.names("soft")[1:]])
def test_programs_that_a_cpu_makes_for_others(name, platform, monkeypatch):
    """Traced on a CPU, only "cpu" branches; it and "streaming" have loops."""
    import jax

    scale = 3.0 if name == "shared_exp" else None
    monkeypatch.setenv(moe_ops.ENVIRONMENT, name)
    layer = layers.SoftMoE(4, 3, intermediate_dim=4, max_scale=scale, **UNDRAWN)
    layer.build((2, 6, 5))
    step = jax.jit(jax.grad(lambda tokens: layer(tokens).sum()))
    traced = step.trace(np.ones((2, 6, 5), "float32"))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    branches = "stablehlo.case" in text or "stablehlo.if" in text
    assert branches == (name == "cpu")
    assert ("stablehlo.while" in text) == (name in ("cpu", "streaming"))


@pytest.fixture
def forget_programs():
    """Programs that are compiled in a test are its own."""
    import jax

    yield jax.clear_caches
    jax.clear_caches()


@pytest.mark.parametrize("name", TUNED)
def test_large_weights_are_the_reference(name, monkeypatch, forget_programs):
    from keras_moe.ops.cpu import jax as tuned

    forget_programs()
    monkeypatch.setattr(tuned, "LARGE", 1)
    parity.assert_same(cpu.prepare, parity.case("soft", name))


@pytest.mark.parametrize("large", [True, False] if KERNELS else [])
def test_large_weights_are_summed_the_other_way(
    large, monkeypatch, forget_programs
):
    """In dispatch and in the gradient of combine."""
    from keras_moe.ops.cpu import jax as tuned

    forget_programs()
    monkeypatch.setattr(tuned, "LARGE", 48 * 40 + (not large))
    made = operations(loss("cpu", None), *tokens_and_embeddings())
    names = [name for name, _ in made]
    assert names.count("optimization_barrier") == (2 if large else 0)

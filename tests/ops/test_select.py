"""Which implementation runs: `select()`, and proof that it did."""

import types

import keras
import numpy as np
import pytest

from keras_moe import layers
from keras_moe import ops as moe_ops
from keras_moe.ops import gather
from tests import support
from tests.benchmarks.calls import LAYERS
from tests.benchmarks.calls import counted
from tests.built import UNDRAWN

HERE = [
    name
    for name, one in moe_ops.IMPLEMENTATIONS.items()
    if support.BACKEND in one.backends
]


def select(kind, requested, backend="jax", environment=None):
    facts = moe_ops.Facts(kind, bound=1.0)
    return moe_ops.select(facts, requested, backend, environment)


@pytest.fixture
def elsewhere(monkeypatch):
    """An implementation of hard plans that runs on torch alone."""
    only = moe_ops.Implementation(gather.prepare, ("hard",), ("torch",))
    monkeypatch.setitem(moe_ops.IMPLEMENTATIONS, "elsewhere", only)


def test_auto_chooses_what_serves_the_plan():
    for (kind, backend, device), order in moe_ops.AUTOMATIC.items():
        facts = moe_ops.Facts(kind, device)
        for name in order:
            one = moe_ops.IMPLEMENTATIONS[name]
            assert kind in one.plans and backend in one.backends
        # The last of them serves whatever the others leave.
        assert not one.auto_bytes and not one.obstacle(facts)
    kinds = {
        kind for case in moe_ops.IMPLEMENTATIONS.values() for kind in case.plans
    }
    assert set(moe_ops.AUTOMATIC) == {
        (kind, backend, device)
        for kind in kinds
        for backend in moe_ops.EVERYWHERE
        for device in ("cpu", "gpu", "tpu")
    }


def test_a_forced_name_is_chosen():
    for name, one in moe_ops.IMPLEMENTATIONS.items():
        for kind in one.plans:
            for backend in one.backends:
                assert select(kind, name, backend) == name


def test_select_reads_nothing_but_its_arguments(monkeypatch):
    before = select("hard", "auto")
    monkeypatch.setenv(moe_ops.ENVIRONMENT, "nonsense")
    assert select("hard", "auto") == before


def test_a_forced_name_that_does_not_serve_raises(elsewhere):
    with pytest.raises(ValueError) as error:
        select("soft", "gather")
    assert str(error.value) == (
        "implementation='gather' serves hard plans on jax, tensorflow, torch; "
        f"for a soft plan on jax choose one of {listed('soft')}."
    )
    with pytest.raises(ValueError) as error:
        select("hard", "elsewhere", "jax")
    assert str(error.value) == (
        "implementation='elsewhere' serves hard plans on torch; for a hard "
        f"plan on jax choose one of {listed('hard')}."
    )
    assert select("hard", "elsewhere", "torch") == "elsewhere"


def listed(kind, backend="jax"):
    """What an error offers: the names for this kind of plan and backend."""
    names = [
        name
        for name, one in moe_ops.IMPLEMENTATIONS.items()
        if kind in one.plans and backend in one.backends
    ]
    return ", ".join(repr(name) for name in ("auto", *names))


def test_unknown_names_raise():
    known = ", ".join(repr(n) for n in ("auto", *moe_ops.IMPLEMENTATIONS))
    with pytest.raises(ValueError) as error:
        select("hard", "gahter")
    assert str(error.value) == (
        f"implementation must be one of {known}; received 'gahter'."
    )
    with pytest.raises(ValueError) as error:
        select("hard", "auto", environment="gahter")
    assert str(error.value) == (
        f"KERAS_MOE_IMPLEMENTATION must be one of {known}; received 'gahter'."
    )
    with pytest.raises(ValueError, match="implementation must be one of"):
        expert_choice(implementation="gahter")


def test_the_environment_stands_in_for_auto_only(elsewhere):
    assert select("hard", "auto", environment="reference") == "reference"
    assert select("hard", "gather", environment="reference") == "gather"
    for nothing in (None, "", "auto"):
        chosen = select("hard", "auto", environment=nothing)
        assert chosen == select("hard", "auto")
    # It names what serves hard plans: layers with soft ones are left alone.
    chosen = select("soft", "auto", environment="gather")
    assert chosen == select("soft", "auto")
    with pytest.raises(ValueError, match="^KERAS_MOE_IMPLEMENTATION='elsewh"):
        select("hard", "auto", "jax", environment="elsewhere")


class Spy:
    """Counts the calls of an implementation's steps and passes them on."""

    def __init__(self, prepare):
        self.wrapped = prepare
        self.calls = []

    def prepare(self, plan, dtype):
        self.calls.append("prepare")
        prepared = self.wrapped(plan, dtype)

        def step(name):
            def call(inputs):
                self.calls.append(name)
                return getattr(prepared, name)(inputs)

            return call

        return types.SimpleNamespace(
            dispatch=step("dispatch"),
            combine=step("combine"),
            product=prepared.product,
            shift=prepared.shift,
            activate=prepared.activate,
        )


@pytest.fixture
def spies(monkeypatch):
    found = {}
    for name, one in list(moe_ops.IMPLEMENTATIONS.items()):
        found[name] = Spy(one.prepare)
        spied = one._replace(prepare=found[name].prepare)
        monkeypatch.setitem(moe_ops.IMPLEMENTATIONS, name, spied)
    monkeypatch.delenv(moe_ops.ENVIRONMENT, raising=False)
    return found


def expert_choice(**options):
    return layers.ExpertChoiceMoE(
        3, 1.0, intermediate_dim=4, **options, **UNDRAWN
    )


def ran(spies, layer):
    """Names of the implementations that a call of the layer went through."""
    for spy in spies.values():
        spy.calls.clear()
    layer.build((2, 6, 5))
    support.run(lambda x: layer(x), np.ones((2, 6, 5), "float32"))
    for spy in spies.values():
        assert spy.calls in ([], ["prepare", "dispatch", "combine"])
    return [name for name, spy in spies.items() if spy.calls]


def test_a_forced_implementation_runs(spies):
    for name in HERE:
        plans = moe_ops.IMPLEMENTATIONS[name].plans
        if "hard" in plans:
            assert ran(spies, expert_choice(implementation=name)) == [name]
        if "grouped" in plans:
            layer = layers.TokenChoiceMoE(
                3,
                2,
                capacity_factor=None,
                intermediate_dim=4,
                implementation=name,
                **UNDRAWN,
            )
            assert ran(spies, layer) == [name]
        if "soft" in plans:
            layer = layers.SoftMoE(
                3,
                1,
                intermediate_dim=4,
                max_scale=1.0,
                implementation=name,
                **UNDRAWN,
            )
            assert ran(spies, layer) == [name]


def test_the_environment_is_obeyed_by_layers(spies, monkeypatch):
    monkeypatch.setenv(moe_ops.ENVIRONMENT, "reference")
    assert ran(spies, expert_choice()) == ["reference"]
    assert ran(spies, expert_choice(implementation="gather")) == ["gather"]
    monkeypatch.setenv(moe_ops.ENVIRONMENT, "nonsense")
    with pytest.raises(ValueError, match="KERAS_MOE_IMPLEMENTATION must be"):
        ran(spies, expert_choice())


def test_a_name_of_another_backend_loads_as_auto(monkeypatch):
    foreign = moe_ops.Implementation(gather.prepare, ("hard",), ("another",))
    monkeypatch.setitem(moe_ops.IMPLEMENTATIONS, "foreign", foreign)
    layer = expert_choice(implementation="foreign")
    config = layer.get_config()
    assert config["implementation"] == "foreign"
    again = layers.ExpertChoiceMoE.from_config(config)
    assert again.implementation == "auto"
    assert config["implementation"] == "foreign"  # and the config is not hurt


def test_a_name_of_another_backend_does_not_run(monkeypatch):
    foreign = moe_ops.Implementation(gather.prepare, ("hard",), ("another",))
    monkeypatch.setitem(moe_ops.IMPLEMENTATIONS, "foreign", foreign)
    layer = expert_choice(implementation="foreign")
    layer.build((2, 6, 5))
    backend = keras.backend.backend()
    with pytest.raises(ValueError, match=f"for a hard plan on {backend} "):
        support.run(lambda x: layer(x), np.ones((2, 6, 5), "float32"))


def test_a_call_is_short():
    """At most 40 Python calls in 8 files, once everything is built."""
    calls, files, _ = counted(LAYERS["SoftMoE"](), np.ones((2, 8, 6)))
    assert calls <= 40 and files <= 8

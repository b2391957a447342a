"""Experts spread over processes of PyTorch compute what one process does."""

import keras
import numpy as np
import pytest
import torch
from torch import distributed

import keras_moe
from keras_moe import distribution
from tests.programs import said_by

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def facts():
    return said_by("tests.layers.processes_program", "torch")


@pytest.mark.once
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize(
    "layer", ["soft", "expert_choice", "capacity", "dropless"]
)
def test_as_in_one_process(facts, processes, layer):
    """Three steps: losses and weights, those of experts too."""
    alone, spread = facts["1"][layer], facts[processes][layer]
    np.testing.assert_allclose(spread["losses"], alone["losses"], **CLOSE)
    assert len(spread["weights"]) == len(alone["weights"]) >= 7
    for ours, theirs in zip(spread["weights"], alone["weights"]):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert spread["kernel"] == [4 // int(processes), 8, 16]
    # A file that one process wrote, read by all.
    assert spread["read_again"] == 0
    # A process has the kernels of its own experts alone.
    assert spread["hidden"] == [None, None]


# Pairs of a token and an expert of it: of 20 tokens, 15 where a sequence is
# masked.
PAIRS = {"one_expert": 20, "no_tokens": 40, "masked": 30}


@pytest.mark.once
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("case", PAIRS)
def test_dropless_parts_of_any_size(facts, processes, case):
    """One expert that takes all tokens, parts without tokens, masked ones."""
    (alone,), parts = facts["1"][case], facts[processes][case]
    assert len(parts) == int(processes)
    for key in set(alone) - {"rows", "router"}:
        joint = np.concatenate(
            [np.reshape(p[key], (-1, *np.shape(alone[key])[1:])) for p in parts]
        )
        np.testing.assert_allclose(joint, alone[key], **CLOSE)
    for part in parts:
        np.testing.assert_allclose(part["router"], alone["router"], **CLOSE)
    # Processes multiply what comes, and no more.
    rows = [part["rows"][0] for part in parts]
    assert sum(rows) == PAIRS[case]
    if case == "one_expert":
        assert sorted(rows) == [*[0] * (int(processes) - 1), 20]


@pytest.mark.once
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("layer", ["thresholds", "balance", "depths"])
def test_routers_learn_from_the_joint_batch(facts, processes, layer):
    """By `synchronize_routers` in two processes, `spread_experts` in four."""
    alone, joint = facts["1"][layer], facts[processes][layer]
    np.testing.assert_allclose(joint["losses"], alone["losses"], **CLOSE)
    assert len(joint["moved"]) == len(alone["moved"]) >= 1
    for ours, theirs in zip(joint["moved"], alone["moved"]):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
        assert np.any(ours)


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def built(**options):
    layer = keras_moe.layers.SoftMoE(2, 1, **options)
    layer.build((None, 3, 4))
    return layer


@pytest.mark.once
def test_without_a_group():
    with pytest.raises(ValueError, match="init_process_group"):
        distribution.spread_experts(built(intermediate_dim=4))
    with pytest.raises(ValueError, match="^synchronize_routers needs torch"):
        distribution.synchronize_routers(built(intermediate_dim=4))
    with pytest.raises(ValueError, match="^gather_batch needs torch.distrib"):
        distribution.gather_batch(torch.ones(2))


@pytest.mark.once
def test_a_batch_of_one_process_is_its_own(group):
    array = torch.arange(3.0, requires_grad=True)
    found, flags = distribution.gather_batch(array, torch.tensor([True, False]))
    (found * found).sum().backward()
    assert array.grad.tolist() == [0.0, 2.0, 4.0]
    assert flags.tolist() == [True, False]
    for wrong in (3.0, torch.tensor(3.0)):
        with pytest.raises(ValueError, match="^arrays must be tensors of PyT"):
            distribution.gather_batch(wrong)
    with pytest.raises(ValueError, match="^group must be None or a torch"):
        distribution.gather_batch(array, group=2)


@pytest.mark.once
def test_models_that_do_not_fit(group):
    def refused(model, text):
        with pytest.raises(ValueError, match=text):
            distribution.spread_experts(model)

    refused("model", "^model must be a Keras model or layer; received 'model'")
    with pytest.raises(ValueError, match="^group must be None or a torch"):
        distribution.spread_experts(built(intermediate_dim=4), group=2)
    inputs = keras.Input((4,))
    refused(keras.Model(inputs, inputs), "^model must have layers of experts")
    refused(built(expert=keras.layers.Dense(4)), "^experts given as expert=…")
    quantised = built(intermediate_dim=4)
    quantised.experts.up.quantize("int8")
    refused(quantised, "^quantised experts and experts with adapters")
    refused(
        keras_moe.layers.SoftMoE(2, 1, intermediate_dim=4),
        "^model must be built before",
    )
    with pytest.raises(ValueError, match="^model must have layers with thre"):
        distribution.synchronize_routers(built(intermediate_dim=4))
    layer = built(intermediate_dim=4)
    assert distribution.spread_experts(layer) == [layer.path]
    refused(layer, "^model is spread already")
    with pytest.raises(ValueError, match="must be saved within .*2 of 2 exp"):
        layer.experts.up.save_own_variables({})
    with pytest.raises(ValueError, match="^enable_lora is not offered"):
        layer.enable_lora(1)
    for options in ({"intermediate_dim": 4}, {"expert": keras.layers.Dense(4)}):
        whole = distribution.whole_experts(built(**options))
        with pytest.raises(ValueError, match="^model must be one whose expe"):
            whole.__enter__()
    tokens = keras.Input((3, 4))
    model = keras.Model(tokens, built(intermediate_dim=4)(tokens))
    clipped = keras.optimizers.SGD(global_clipnorm=1.0)
    for optimizer in (clipped, keras.optimizers.LossScaleOptimizer(clipped)):
        model.compile(optimizer, "mse")
        refused(model, "^model must have an optimizer without global_clipnorm")
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    refused(model, "^model must be spread before its optimizer")

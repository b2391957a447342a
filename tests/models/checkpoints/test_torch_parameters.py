"""PyTorch lists every weight of a model, and trains it by hand."""

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models import language_support
from tests.models import support
from tests.support import BACKEND

IDS = np.arange(20, dtype="int32").reshape(2, 10)
TEXTS = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
PLACES = {"mask_positions": np.array([[1, 3], [0, 2]], "int32")}


def masked():
    return models.MoTMaskedLM(language_support.make_backbone(causal=False))


def texts_and_places():
    return {**TEXTS, **PLACES}


MODELS = {
    "vit": (support.make_backbone, support.images_of),
    "classifier": (support.make_classifier, support.images_of),
    "language": (language_support.make_backbone, lambda: TEXTS),
    "causal": (language_support.make_causal, lambda: TEXTS),
    "masked": (masked, texts_and_places),
}


def listed(model):
    return {id(parameter) for parameter in model.parameters()}


def values(variables):
    return {id(variable.value) for variable in variables}


@pytest.mark.parametrize("make, inputs", MODELS.values(), ids=MODELS)
def test_parameters(make, inputs):
    """On other backends, models are made and called as ever."""
    model, data = make(), inputs()
    if BACKEND == "torch":
        import torch

        trained = list(model.parameters())
        assert listed(model) == values(model.variables)
        assert len(model.state_dict()) == len(model.variables)
        optimiser = torch.optim.SGD([p for p in trained if p.requires_grad])
        before = torch.mean(model(data) ** 2)
        before.backward()
        optimiser.step()
        with torch.no_grad():
            after = torch.mean(model(data) ** 2)
        assert after.item() != before.item()
    outputs = keras.ops.convert_to_numpy(model(data))
    assert np.isfinite(outputs).all()


def test_parameters_of_lora():
    backbone = language_support.make_backbone()
    task = models.MoTCausalLM(backbone)
    count = len(task.variables)
    backbone.enable_lora(2)
    assert len(task.variables) > count
    if BACKEND == "torch":
        for model in (backbone, task):
            assert listed(model) == values(model.variables)

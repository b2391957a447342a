"""`inference_mixing` of a whole model, also after it has been compiled."""

import json

import numpy as np
import pytest

from keras_moe import models
from tests.models.language_support import LENGTH
from tests.models.language_support import TEXTS
from tests.models.language_support import logits_of
from tests.models.language_support import make_backbone
from tests.models.language_support import make_causal

IDS = np.arange(2 * LENGTH).reshape(2, LENGTH)


def test_setting_it_reaches_what_is_compiled(tmp_path):
    model = make_causal("group")
    group = logits_of(model, IDS), model.generate(TEXTS)
    model.inference_mixing = "argmax"
    assert model.backbone.inference_mixing == "argmax"
    changed = logits_of(model, IDS), model.generate(TEXTS)
    assert np.abs(changed[0] - group[0]).max() > 1e-2
    fresh = make_causal("argmax")
    np.testing.assert_allclose(logits_of(fresh, IDS), changed[0], atol=1e-6)
    assert fresh.generate(TEXTS) == changed[1] != group[1]
    # On the backbone, which knows nothing of the task.
    model.backbone.inference_mixing = "group"
    assert model.inference_mixing == "group"
    np.testing.assert_allclose(logits_of(model, IDS), group[0], atol=1e-6)
    assert model.generate(TEXTS) == group[1]


def test_it_is_saved(tmp_path):
    backbone = make_backbone("group")
    backbone.inference_mixing = "self"
    assert backbone.get_config()["router_options"] == {
        "num_experts": 2,
        "group_size": 2,
        "inference_mixing": "self",
    }
    mixing, dense = backbone.blocks
    assert mixing.mlp.inference_mixing == "self"
    assert mixing.get_config()["router_options"]["inference_mixing"] == "self"
    assert dense.get_config()["router_options"] == {}
    backbone.save_to_preset(tmp_path / "preset")
    text = (tmp_path / "preset" / "config.json").read_text()
    options = json.loads(text)["config"]["router_options"]
    assert options["inference_mixing"] == "self"
    again = models.MoTBackbone.from_preset(tmp_path / "preset")
    assert again.inference_mixing == "self"


def test_default():
    options = {"num_experts": 2, "group_size": 2}
    backbone = make_backbone(router_options=options)
    assert backbone.inference_mixing == "group"


def test_predictions_of_a_backbone():
    backbone = make_causal("group").backbone
    inputs = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    before = backbone.predict(inputs, verbose=0)
    backbone.inference_mixing = "self"
    assert np.abs(backbone.predict(inputs, verbose=0) - before).max() > 1e-3


def test_wrong_values():
    model = make_causal("group")
    for value in ("mean", None, 1):
        with pytest.raises(ValueError, match="^inference_mixing must be one"):
            model.inference_mixing = value
    assert model.inference_mixing == "group"
    choice = {
        "router": "token_choice",
        "router_options": {"num_experts": 2, "top_k": 1},
    }
    dense = {"router": None, "router_options": None, "moe_layers": None}
    for options in (choice, dense):
        backbone = make_backbone(**options)
        assert backbone.inference_mixing is None
        text = f"received 'self' for .*router={options['router']!r}"
        with pytest.raises(ValueError, match=text):
            backbone.inference_mixing = "self"

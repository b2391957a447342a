"""Positions and vocabulary of other sizes, when a model is loaded."""

import numpy as np
import pytest
from keras import ops

from keras_moe import models
from keras_moe.models.language import resizing
from tests.models.language_support import LENGTH
from tests.models.language_support import logits_of
from tests.models.language_support import make_backbone
from tests.models.language_support import make_causal

IDS = np.array([[1, 200, 3, 4], [5, 6, 7, 257]])


@pytest.fixture(scope="module")
def causal():
    """One that does not mix over the batch, so that texts are independent."""
    return make_causal("self")


@pytest.fixture(scope="module")
def folder(causal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes") / "preset"
    causal.save_to_preset(folder)
    return folder


def test_longer_positions_and_more_ids(causal, folder, tmp_path):
    """Old ids keep their logits, new ones have their mean; saved and read."""
    sizes = {"max_sequence_length": 16, "vocabulary_size": 260}
    longer = models.MoTCausalLM.from_preset(folder, **sizes)
    expected = logits_of(causal, IDS)
    actual = logits_of(longer, IDS)
    np.testing.assert_allclose(actual[..., :258], expected, atol=1e-5)
    mean = np.repeat(expected.mean(-1, keepdims=True), 2, -1)
    np.testing.assert_allclose(actual[..., 258:], mean, atol=1e-5)
    ids = np.arange(32).reshape(2, 16)
    assert logits_of(longer, ids).shape == (2, 16, 260)
    assert longer.preprocessor.sequence_length == 16
    longer.save_to_preset(tmp_path / "longer")
    again = models.MoTCausalLM.from_preset(tmp_path / "longer")
    assert again.backbone.max_sequence_length == 16
    np.testing.assert_array_equal(logits_of(again, ids), logits_of(longer, ids))


def test_fewer_positions_and_a_backbone_alone(causal, folder):
    shorter = models.MoTBackbone.from_preset(folder, max_sequence_length=4)
    old = causal.backbone.position_embedding.position_embeddings
    new = shorter.position_embedding.position_embeddings
    assert shorter.max_sequence_length == 4
    np.testing.assert_array_equal(
        ops.convert_to_numpy(new), ops.convert_to_numpy(old)[:4]
    )
    same = models.MoTCausalLM.from_preset(folder, max_sequence_length=LENGTH)
    np.testing.assert_array_equal(logits_of(same, IDS), logits_of(causal, IDS))


def test_a_masked_model_with_a_head_of_its_own(tmp_path):
    """Its bias and its untied embedding have one more id too."""
    model = models.MoTMaskedLM(
        make_backbone(causal=False, tie_embeddings=False)
    )
    bias = model.masked_lm_head._bias
    bias.assign(np.linspace(0, 1, 258))
    model.save_to_preset(tmp_path / "preset")
    more = models.MoTMaskedLM.from_preset(
        tmp_path / "preset", vocabulary_size=259, preprocessor=None
    )
    inputs = {
        "token_ids": IDS,
        "padding_mask": np.ones_like(IDS),
        "mask_positions": np.array([[1, 2], [0, 3]]),
    }
    expected, actual = (m.predict(inputs, verbose=0) for m in (model, more))
    np.testing.assert_allclose(actual[..., :258], expected, atol=1e-5)
    np.testing.assert_allclose(
        actual[..., 258], expected.mean(-1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "arguments, text",
    [
        (
            {"max_sequence_length": 0},
            "max_sequence_length must be an integer of at least 1",
        ),
        (
            {"vocabulary_size": 257.5},
            "vocabulary_size must be an integer of at least 1",
        ),
        (
            {"vocabulary_size": 200},
            "tokenizer must have ids below vocabulary_size of the backbone, "
            "200; received one with ids up to 256",
        ),
        (
            {"vocabulary_size": 300, "backbone": None},
            "vocabulary_size must be left out where backbone is given",
        ),
    ],
)
def test_sizes_that_do_not_fit(folder, arguments, text):
    with pytest.raises(ValueError, match=text):
        models.MoTCausalLM.from_preset(folder, **arguments)


def test_a_quantised_model(tmp_path):
    """Positions may be longer; the ids of a quantised embedding stay."""
    backbone = make_backbone(num_layers=1)
    backbone.quantize("int8")
    backbone.save_to_preset(tmp_path / "int8")
    longer = models.MoTBackbone.from_preset(
        tmp_path / "int8", max_sequence_length=12, vocabulary_size=259
    )
    assert longer.blocks[0].attention.query.quantization_mode == "int8"
    assert longer.position_embedding.position_embeddings.shape == (12, 8)
    backbone.token_embedding.quantize("int8", type_check=False)
    text = "vocabulary_size can be changed where the embedding is not"
    with pytest.raises(ValueError, match=text):
        resizing.backbone(backbone, {"vocabulary_size": 300})

"""Arguments of models, tokenizers and preprocessors: refused, or JSON's."""

import json

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models import language_support
from tests.models.support import make_backbone
from tests.models.support import make_classifier
from tests.models.support import make_preprocessor


@pytest.mark.once
def test_arguments_that_keras_would_ignore():
    backbone = make_backbone("dense")
    with pytest.raises(ValueError, match="^MoEViTBackbone has no argument rou"):
        make_backbone("dense", router_option={})
    with pytest.raises(ValueError, match="^MoEViTImageClassifier has no argum"):
        models.MoEViTImageClassifier(backbone, 3, num_class=4)
    with pytest.raises(ValueError, match="^MoTBackbone has no argument width;"):
        language_support.make_backbone(width=4)
    with pytest.raises(ValueError, match="^MoTCausalLM has no argument a, b;"):
        models.MoTCausalLM(language_support.make_backbone(), b=1, a=2)
    masked = language_support.make_backbone(causal=False)
    with pytest.raises(ValueError, match="^MoTMaskedLM has no argument head;"):
        models.MoTMaskedLM(masked, head=4)


@pytest.mark.once
@pytest.mark.parametrize(
    "change, text",
    [
        ({"hidden_dim": 16}, r"hidden_dim=16 \(the preset has 8\)"),
        ({"num_layers": 3}, r"num_layers=3 \(the preset has 2\)"),
        ({"patch_size": 2}, r"patch_size=\[2, 2\] \(the preset has \[4, 4\]\)"),
    ],
)
def test_arguments_that_do_not_fit_the_weights(change, text, tmp_path):
    folder = tmp_path / "preset"
    make_classifier().save_to_preset(folder)
    with pytest.raises(
        ValueError, match=rf"preset/model.weights.h5 does not fit {text}"
    ):
        models.MoEViTBackbone.from_preset(folder, **change)
    # Once the classifier of the preset came, as if nothing had been asked for.
    with pytest.raises(ValueError, match=f"has no argument {[*change][0]}; be"):
        models.MoEViTImageClassifier.from_preset(folder, **change)


@pytest.mark.once
def test_scalars_of_numpy_in_preprocessors():
    tokenizer = models.MoTTokenizer.byte_level("[MASK]")
    masked = models.MoTMaskedLMPreprocessor(
        tokenizer,
        sequence_length=np.int64(8),
        mask_selection_rate=np.float32(0.5),
        mask_selection_length=np.int32(4),
        mask_token_rate=np.float64(0.5),
        random_token_rate=np.float16(0.25),
    )
    causal = models.MoTCausalLMPreprocessor(
        tokenizer,
        sequence_length=np.int64(8),
        add_start_token=np.False_,
        add_end_token=np.True_,
    )
    config = json.loads(json.dumps(masked.get_config()))
    assert config["sequence_length"] == 8 and config["mask_token_rate"] == 0.5
    config = json.loads(json.dumps(causal.get_config()))
    assert config["add_start_token"] is False


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "received None"),
        ("abc", "received 'abc'"),
        (b"x", "received b'x'"),
        ({"a": 1}, "received {'a': 1}"),
        (True, "received True"),
        (-1, "received -1"),
        ([2**31], "received 2147483648"),
        ([1.5], "received 1.5"),
        ([None], "received None"),
        ([["a"]], "received 'a'"),
        ([[1], 2], "received 2 .* among lists"),
        (np.ones((2, 2)), "received float64 of shape"),
        (np.ones((1, 1, 1), int), r"received int64 of shape \(1, 1, 1\)"),
    ],
)
def test_detokenize(value, text):
    tokenizer = models.MoTTokenizer.byte_level()
    with pytest.raises(ValueError, match=f"^inputs must be an id, a .*{text}"):
        tokenizer.detokenize(value)


def test_forms_of_ids():
    detokenize = models.MoTTokenizer.byte_level().detokenize
    assert detokenize(97) == detokenize([np.int64(97)]) == "a"
    assert detokenize([]) == "" and detokenize([[], (98,)]) == ["", "b"]
    ids = np.array([[97, 98], [99, 100]])
    texts = ["ab", "cd"]
    assert detokenize(ids) == detokenize(list(ids)) == texts
    assert detokenize(keras.ops.convert_to_tensor(ids)) == texts


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "abc",
        [],
        {},
        [None],
        ["a"],
        object(),
        np.array(["a"]),
        np.zeros((8, 8)),
        np.zeros((0, 8, 8, 3)),
        [np.zeros((8, 8, 3)), np.zeros((9, 8, 3))],
    ],
)
def test_preprocessor_of_no_image(value):
    with pytest.raises(ValueError, match="x must be an image of three axes, o"):
        make_preprocessor()(value)


def test_preprocessor_of_images():
    preprocessor = make_preprocessor((4, 4, 3))
    one = np.zeros((8, 6, 3), "uint8")
    for value, shape in (
        (one, (4, 4, 3)),
        (one.tolist(), (4, 4, 3)),
        ([one, one], (2, 4, 4, 3)),
        (keras.ops.convert_to_tensor(one[None]), (1, 4, 4, 3)),
    ):
        assert tuple(preprocessor(value).shape) == shape
    made, label = preprocessor(one[None], np.array([1]))
    assert tuple(made.shape) == (1, 4, 4, 3) and label[0] == 1
    made, label = preprocessor((one, 1))
    assert tuple(made.shape) == (4, 4, 3) and label == 1

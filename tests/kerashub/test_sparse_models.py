"""Whole models of KerasHub with sparse experts: train, generate, save."""

import json
import zipfile

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.tests import test_case

import keras_moe
from keras_moe.kerashub import products
from tests.kerashub import models
from tests.support import BACKEND
from tests.support import numpy

families = pytest.mark.parametrize("family", models.FAMILIES)
# Whole models take seconds to compile, and differ in their blocks alone.
some_families = pytest.mark.parametrize(
    "family", models.FAMILIES if BACKEND == "torch" else ["Mixtral"]
)
# Words that tokenizers look for.
QWEN = ("<|im_end|>", "<|endoftext|>")
VISION = ("vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL = {
    "Qwen3.5-MoE": (*QWEN, *(f"<|{w}|>" for w in ("im_start", *VISION))),
}


@pytest.fixture
def applied(monkeypatch):
    """The layers whose sparse experts were called or compiled, in order."""
    layers, apply = [], products.apply_experts

    def counted(layer, *args):
        layers.append(layer)
        return apply(layer, *args)

    monkeypatch.setattr(products, "apply_experts", counted)
    return layers


@pytest.mark.once
@families
def test_backbone_and_its_gradients(family):
    model = models.backbone(family)
    inputs = models.inputs(family)
    cotangent = models.normal(2, 5, models.FEATURES)

    def call():
        return model(inputs, training=True)

    expected = models.derivatives(model, call, cotangent)
    changed = keras_moe.use_sparse_experts(model)
    assert [block.family for block in changed] == [family]
    actual = models.derivatives(model, call, cotangent)
    models.same(actual, expected)
    assert len(expected[1]) == (family not in ("gpt-oss", "Gemma 4"))
    named = {path.split("/")[-1] for path in expected[2]}
    assert len(named) > 5
    assert all(
        np.abs(g).max() > 0 for p, g in expected[2].items() if "exp" in p
    )


@families
def test_generates_the_same_tokens(family, applied):
    model = models.task(family)
    model.compile(sampler="greedy")
    inputs = models.inputs(family, length=8)
    inputs["padding_mask"] = np.tile(np.arange(8) < 3, (2, 1)).astype("int32")
    generated = []
    for use in (False, True):
        if use:
            assert applied == []
            keras_moe.use_sparse_experts(model)
        outputs = model.generate(inputs, stop_token_ids=None)
        generated.append(numpy(outputs["token_ids"]))
    assert applied
    np.testing.assert_array_equal(*generated)
    assert (generated[0][:, 3:] != inputs["token_ids"][:, 3:]).any()


@pytest.mark.once
@families
def test_logits_and_generation_in_mixed_bfloat16(family):
    """Cached generation takes the best tokens of KerasHub's own logits."""
    model = models.task(family, dtype="mixed_bfloat16")
    model.compile(sampler="greedy")
    inputs = models.inputs(family, length=8)
    expected = model.predict(inputs, verbose=0)
    keras_moe.use_sparse_experts(model)
    models.close(model.predict(inputs, verbose=0), expected, 2e-2)
    given = inputs | {"padding_mask": np.tile(np.arange(8) < 3, (2, 1))}
    made = numpy(model.generate(given, stop_token_ids=None)["token_ids"])
    keras_moe.use_dense_experts(model)
    mask = np.ones((2, 8), "int32")
    logits = model.predict(
        inputs | {"token_ids": made, "padding_mask": mask}, verbose=0
    )
    taken = np.take_along_axis(logits[:, 2:-1], made[:, 3:, None], axis=-1)
    models.close(taken[..., 0], logits[:, 2:-1].max(-1), 5e-2)


@some_families
def test_fit(family):
    inputs = models.inputs(family)
    labels = inputs["token_ids"]
    found = []
    for use in (False, True):
        model = models.task(family)
        if use:
            keras_moe.use_sparse_experts(model)
        model.compile(
            optimizer=keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        history = model.fit(inputs, labels, batch_size=2, verbose=0).history
        found.append((history["loss"], [numpy(w) for w in model.weights]))
    models.close(np.array(found[1][0]), np.array(found[0][0]))
    for actual, expected in zip(found[1][1], found[0][1], strict=True):
        models.close(actual, expected)


@pytest.mark.once
@families
def test_files_are_kerashubs_own(family, tmp_path):
    model = models.backbone(family)
    inputs = models.inputs(family)
    expected = numpy(model(inputs))
    config = json.dumps(model.get_config(), default=str)
    names = [w.path for w in model.weights]
    keras_moe.use_sparse_experts(model)
    assert json.dumps(model.get_config(), default=str) == config
    assert [w.path for w in model.weights] == names
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"keras_moe" not in archive.read("config.json")
    model.save_to_preset(str(tmp_path / "preset"))
    for file in (tmp_path / "preset").glob("*.json"):
        assert "keras_moe" not in file.read_text()
    read = (
        keras.models.load_model(tmp_path / "model.keras"),
        keras_hub.models.Backbone.from_preset(str(tmp_path / "preset")),
    )
    for plain in read:
        assert keras_moe.use_dense_experts(plain) == []
        np.testing.assert_array_equal(numpy(plain(inputs)), expected)
    clone = type(model).from_config(model.get_config())
    assert keras_moe.use_dense_experts(clone) == []
    # Weights that KerasHub saved load into a sparse model.
    plain.save_weights(tmp_path / "plain.weights.h5")
    keras_moe.use_sparse_experts(clone)
    clone.load_weights(tmp_path / "plain.weights.h5")
    models.close(numpy(clone(inputs)), expected)


@pytest.mark.once
@families
def test_kerashubs_own_test_of_a_backbone(family):
    made = type(models.backbone(family))

    @keras.saving.register_keras_serializable("tests")
    class Sparse(made):
        def __init__(self, **options):
            super().__init__(**options)
            keras_moe.use_sparse_experts(self)

    case = test_case.TestCase()
    case.setUp()
    case.run_backbone_test(
        Sparse,
        models.SHARED | models.OWN[family],
        models.inputs(family),
        (2, 5, models.FEATURES),
    )


@pytest.mark.once
@pytest.mark.parametrize(
    "family", ["Qwen1.5-MoE", "Qwen3-MoE", "Qwen3.5-MoE", "gpt-oss"]
)
def test_kerashubs_own_test_of_a_task(family, applied):
    """Tokenizers of Mixtral and Gemma 4 need files that its wheel lacks."""
    name = models.FAMILIES[family]
    made = getattr(keras_hub.models, name + "CausalLM")

    @keras.saving.register_keras_serializable("tests")
    class SparseCausalLM(made):
        def __init__(self, **options):
            super().__init__(**options)
            keras_moe.use_sparse_experts(self)

    words = [*"Ġairplneto", "ai", *SPECIAL.get(family, QWEN)]
    tokenizer = getattr(keras_hub.models, name + "Tokenizer")(
        vocabulary={word: index for index, word in enumerate(words)},
        merges=["a i"],
    )
    preprocessor = getattr(keras_hub.models, name + "CausalLMPreprocessor")
    case = test_case.TestCase()
    case.setUp()
    case.run_task_test(
        SparseCausalLM,
        {
            "preprocessor": preprocessor(tokenizer, sequence_length=7),
            "backbone": models.backbone(family),
        },
        ([" airplane at airport", " airplane at airport"],),
        (2, 7, models.SHARED["vocabulary_size"]),
    )
    assert applied


def test_compiled_programs_are_made_anew(applied):
    model = models.task("Qwen3-MoE")
    inputs = models.inputs("Qwen3-MoE")
    expected = model.predict(inputs, verbose=0)
    assert len(keras_moe.use_sparse_experts(model)) == 1
    assert applied == []
    models.close(model.predict(inputs, verbose=0), expected)
    assert applied
    # Programs stay where nothing changes.
    program = model.predict_function
    assert keras_moe.use_sparse_experts(model) == []
    assert model.predict_function is program
    applied.clear()
    keras_moe.use_dense_experts(model)
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), expected)
    assert applied == []

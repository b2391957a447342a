"""Quantised tasks are the same after a preset, and after another."""

import zipfile

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models import language_support
from tests.models.presets import quantised_fixture as fixture


def make_backbone():
    return models.MoEViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        router="soft",
        router_options={"num_experts": 2, "slots_per_expert": 2},
    )


def outputs_of(task):
    if isinstance(task, models.MoEViTImageClassifier):
        inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
        inputs = inputs.astype("float32")
    else:
        ids = np.arange(20, dtype="int32").reshape(2, 10)
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    if isinstance(task, models.MoTMaskedLM):
        inputs["mask_positions"] = np.array([[1, 2], [3, 9]])
    return keras.ops.convert_to_numpy(task(inputs))


def quantised(task):
    """Paths of the layers that are quantised."""
    layers = task._flatten_layers()
    return {one.path for one in layers if one.quantization_mode is not None}


def check_files(task, mode, folder):
    """Quantise what has never been called; save it twice, and as a file."""
    task.quantize(mode)
    paths, saved = quantised(task), []
    for name in ("first", "again"):
        task.save_to_preset(folder / name)
        saved.append(task)
        task = type(task).from_preset(folder / name)
    task.save(folder / "task.keras")
    saved += [task, keras.saving.load_model(folder / "task.keras")]
    expected = outputs_of(saved[0])
    for one in saved:
        np.testing.assert_array_equal(outputs_of(one), expected)
        assert quantised(one) == paths
    return paths


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_classifier(mode, tmp_path, quick_quantization):
    task = models.MoEViTImageClassifier(
        make_backbone(), 3, pooling="map", representation_size=8
    )
    assert "predictions" in check_files(task, mode, tmp_path)


def test_classifier_of_a_preset(tmp_path, quick_quantization):
    """One that is loaded, quantised and saved without a call."""
    models.MoEViTImageClassifier(make_backbone(), 3).save_to_preset(
        tmp_path / "float"
    )
    task = models.MoEViTImageClassifier.from_preset(tmp_path / "float")
    check_files(task, "int8", tmp_path)
    assert task.predict(np.zeros((1, 8, 8, 3)), verbose=0).shape == (1, 3)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_masked_language_model(mode, tmp_path, quick_quantization):
    backbone = language_support.make_backbone(causal=False, num_layers=1)
    paths = check_files(models.MoTMaskedLM(backbone), mode, tmp_path)
    assert "masked_lm_head/intermediate_dense" in paths


def test_causal_language_model(tmp_path, quick_quantization):
    backbone = language_support.make_backbone(num_layers=1)
    check_files(models.MoTCausalLM(backbone), "int8", tmp_path)


@pytest.mark.parametrize("mode", fixture.MODES)
def test_files_of_another_backend(mode, tmp_path):
    """What PyTorch has written, on the backend that runs."""
    with zipfile.ZipFile(fixture.FILE) as archive:
        archive.extractall(tmp_path)
    expected = np.load(tmp_path / f"{mode}.npy")
    loaded = (
        models.MoEViTImageClassifier.from_preset(tmp_path / mode),
        keras.saving.load_model(tmp_path / f"{mode}.keras"),
    )
    for task in loaded:
        assert "predictions" in quantised(task)
        found = keras.ops.convert_to_numpy(task(fixture.images()))
        # A last bit may round a feature to the next of 127 steps.
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected) > 20 * TOLERANCE


TOLERANCE = 0.02

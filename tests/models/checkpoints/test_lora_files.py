"""LoRA: training goes on from files, and gives the outputs it had."""

import h5py
import keras
import keras_hub
import numpy as np
import pytest

from keras_moe import models
from tests.models import language_support
from tests.models import support

KINDS = {
    "image": lambda: support.make_classifier("soft"),
    "text": language_support.make_causal,
}


def values(model):
    """Every kernel as layers apply it, and every other weight."""
    found = {}
    for layer in model._flatten_layers():
        store = {}
        layer.save_own_variables(store)
        for key, value in store.items():
            array = keras.ops.convert_to_numpy(value)
            found[f"{layer.path}/{key}"] = array.astype("float32")
    return found


def same(model, other, tolerance=0.0):
    ours, theirs = values(model), values(other)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(
            theirs[name], array, tolerance, tolerance, err_msg=name
        )


def train(model, seed=1):
    """Change every weight that training would change."""
    rng = np.random.default_rng(seed)
    for weight in sorted(model.trainable_weights, key=lambda one: one.path):
        array = keras.ops.convert_to_numpy(weight)
        weight.assign(array + rng.normal(size=array.shape))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for kind, make in KINDS.items():
        support.randomize(make()).save_to_preset(folder / kind)
    return folder


def load(start, kind, **arguments):
    classes = {
        "image": models.MoEViTImageClassifier,
        "text": models.MoTCausalLM,
    }
    return classes[kind].from_preset(start / kind, **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_into_a_model_with_adapters(kind, start, tmp_path):
    """Keras adds the adapters to the kernels as it saves them."""
    model = load(start, kind)
    model.backbone.enable_lora(2)
    train(model)
    model.save_to_preset(tmp_path / "merged")
    path = str(tmp_path / "backbone.weights.h5")
    model.backbone.save_weights(path)
    for file in (path, str(tmp_path / "merged" / "model.weights.h5")):
        resumed = load(start, kind)
        resumed.backbone.enable_lora(2)
        resumed.backbone.load_weights(file)
        if kind == "image":
            resumed.load_task_weights(tmp_path / "merged" / "task.weights.h5")
        same(model, resumed)
        assert len(resumed.trainable_weights) == len(model.trainable_weights)
    same(model, type(model).from_preset(tmp_path / "merged"))
    # What is missing is still seen.
    other = support.make_backbone("dense", num_layers=1)
    other.save_weights(path)
    with pytest.raises(ValueError, match="must hold .* arrays for this model"):
        resumed.backbone.load_weights(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["task", "backbone"])
@pytest.mark.parametrize("more", [False, True])
def test_adapters_bring_what_was_trained_with_them(
    kind, of, more, start, tmp_path
):
    """Keras leaves biases trainable; a user may train norms, and a head."""
    path = str(tmp_path / "a.lora.h5")

    def part(task):
        return task if of == "task" else task.backbone

    model = load(start, kind)
    names = ["query", "key", "out"] if more else None
    model.backbone.enable_lora(2, names)
    if more:
        model.backbone.blocks[0].mlp_norm.trainable = True
    train(part(model))
    part(model).save_lora_weights(path)
    fresh = load(start, kind)
    part(fresh).load_lora_weights(path)
    same(part(model), part(fresh))
    again = load(start, kind)
    again.backbone.enable_lora(2, names)
    part(again).load_lora_weights(path)
    same(part(model), part(again))
    assert [p.name for p in tmp_path.iterdir()] == ["a.lora.h5"]


def refused(load_into, path, *texts):
    before = values(load_into)
    with pytest.raises(ValueError) as raised:
        load_into.load_lora_weights(str(path))
    for text in (path.name, *texts):
        assert text in str(raised.value), str(raised.value)
    after = values(load_into)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


@pytest.mark.once
def test_adapters_that_do_not_fit(start, tmp_path):
    path = tmp_path / "a.lora.h5"
    model = load(start, "image")
    model.backbone.enable_lora(2)
    train(model)
    model.save_lora_weights(path)
    refused(load(start, "image").backbone, path, "of a task")
    other = load(start, "image")
    train(other)
    refused(other, path, "the model that its adapters were trained on")
    refused(load(start, "text"), path, "holds")
    fewer = load(start, "image")
    fewer.backbone.enable_lora(2, ["query"])
    refused(fewer, path, "adapters")
    model.backbone.save_lora_weights(path)
    refused(load(start, "image"), path, "of a backbone")
    # In another dtype the numbers of the same model are not the same.
    half = load(start, "image", dtype="bfloat16")
    half.backbone.load_lora_weights(str(path))
    same(model.backbone, half.backbone, 0.1)


@pytest.mark.once
def test_files_of_adapters_that_are_not_whole(start, tmp_path):
    path = tmp_path / "a.lora.h5"
    model = load(start, "image").backbone
    with pytest.raises(ValueError, match="no lora-enabled layers"):
        model.save_lora_weights(path)
    model.enable_lora(2)
    with pytest.raises(ValueError, match=r"must end in `\.lora\.h5`"):
        model.save_lora_weights(tmp_path / "a.h5")
    keras_hub.models.Backbone.save_lora_weights(model, str(path))
    refused(load(start, "image").backbone, path, "adapters alone", "unchecked")
    model.save_lora_weights(path)
    with h5py.File(path, "a") as file:
        layer = min(name for name in file["lora"] if name.isdigit())
        file[f"lora/{layer}/vars/lora_kernel_a"][0] = np.nan
    refused(load(start, "image").backbone, path, "finite numbers")
    path.write_bytes(path.read_bytes()[:500])
    refused(load(start, "image").backbone, path, "not a whole file")

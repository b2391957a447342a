"""Adapters of experts: what they compute, merge, save."""

import h5py
import keras
import keras_hub
import numpy as np
import pytest

import keras_moe
from keras_moe.kerashub import kernels
from tests.kerashub import models
from tests.support import BACKEND
from tests.support import numpy

# Families differ in what their kernels are called; products are the backend's.
families = pytest.mark.parametrize(
    "family",
    models.FAMILIES if BACKEND == "torch" else ["Mixtral", "gpt-oss"],
)
RANK, ALPHA = 2, 3.0


def adapters(model):
    return [w for w in model.weights if w.name.startswith("lora_")]


def draw(model):
    """Give the adapters values, as B is zero at first."""
    rng = np.random.default_rng(2)
    for weight in adapters(model):
        weight.assign(0.5 * rng.normal(size=weight.shape))


@families
def test_block_and_gradients_of_adapters(family):
    layer, plain = models.block(family), models.block(family)
    tokens = models.normal(2, 6, models.FEATURES)
    cotangent = models.normal(2, 6, models.FEATURES, seed=1)

    def results(layer):
        def call():
            return models.call_block(layer, tokens)[0]

        outputs, losses, gradients = models.derivatives(layer, call, cotangent)
        return outputs, {
            path.split("/")[-1]: g for path, g in gradients.items()
        }

    def outputs(layer):
        found, _ = models.call_block(layer, keras.ops.convert_to_tensor(tokens))
        return numpy(found)

    (block,) = keras_moe.enable_expert_lora(layer, RANK, ALPHA)
    assert block.family == family
    assert {id(w) for w in layer.trainable_weights} == {
        id(w) for w in adapters(layer)
    }
    models.close(outputs(layer), outputs(plain))
    draw(layer)
    own = {w.name: numpy(w) for w in adapters(layer)}
    bank = models.bank(family, plain)
    for weight in bank.weights:
        if f"lora_{weight.name}_a" in own:
            a, b = (own[f"lora_{weight.name}_{x}"] for x in "ab")
            weight.assign(numpy(weight) + ALPHA / RANK * a @ b)
    expected, by_kernel = results(plain)
    actual, gradients = results(layer)
    models.close(actual, expected)
    assert set(gradients) == set(own)
    for name, gradient in gradients.items():
        kernel = by_kernel[name.removeprefix("lora_")[:-2]]
        a, b = (own[name[:-1] + x] for x in "ab")
        if name.endswith("_a"):
            wanted = kernel @ b.swapaxes(1, 2)
        else:
            wanted = a.swapaxes(1, 2) @ kernel
        models.close(gradient, ALPHA / RANK * wanted)
    keras_moe.use_sparse_experts(layer, "reference")
    models.close(outputs(layer), expected)
    assert keras_moe.merge_expert_lora(layer) == [block]
    assert not adapters(layer)
    # KerasHub's own again.
    keras_moe.use_dense_experts(layer)
    models.close(outputs(layer), expected)


@pytest.mark.once
@pytest.mark.parametrize("mode", [None, "int8"])
def test_fit_merge_and_files(mode, tmp_path):
    inputs = models.inputs("Qwen3-MoE")

    def made():
        model = models.task("Qwen3-MoE")
        if mode is not None:
            keras_moe.quantize_experts(model, mode)
        return model

    model = made()
    model.backbone.enable_lora(1)  # KerasHub's, of attention
    before = [numpy(w) for w in model.weights if "lora" not in w.name]
    keras_moe.enable_expert_lora(model, RANK)
    assert len(model.trainable_weights) == 4 + 4
    model.compile(
        optimizer=keras.optimizers.Adam(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses = model.fit(
        inputs, inputs["token_ids"], batch_size=2, epochs=5, verbose=0
    ).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    after = [numpy(w) for w in model.weights if "lora" not in w.name]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    expected = numpy(model(inputs))
    path = tmp_path / "adapters.lora.h5"
    keras_moe.save_expert_lora(model, path)
    again = made()
    again.backbone.enable_lora(1)
    keras_moe.load_expert_lora(again, path)
    np.testing.assert_array_equal(numpy(again(inputs)), expected)
    draw(again)
    keras_moe.load_expert_lora(again, path)
    np.testing.assert_array_equal(numpy(again(inputs)), expected)
    # Files of whole models, and KerasHub's in a model with adapters.
    again.save_weights(tmp_path / "whole.weights.h5")
    draw(again)
    again.load_weights(tmp_path / "whole.weights.h5")
    np.testing.assert_array_equal(numpy(again(inputs)), expected)
    keras_moe.merge_expert_lora(again)
    models.close(numpy(again(inputs)), expected, 1e-5 if mode is None else 0.02)
    if mode is None:
        plain = models.task("Qwen3-MoE", seed=1)
        plain.backbone.enable_lora(1)
        again.save_weights(tmp_path / "merged.weights.h5")
        plain.load_weights(tmp_path / "merged.weights.h5")
        models.close(numpy(plain(inputs)), expected)


@pytest.mark.once
def test_adapters_of_a_task_load_into_its_backbone(tmp_path):
    """Blocks have one order in both, whatever they are nested in."""
    options = models.SHARED | models.OWN["Qwen3-MoE"] | {"num_layers": 3}
    backbone = keras_hub.models.Qwen3MoeBackbone(**options)
    task = keras_hub.models.Qwen3MoeCausalLM(backbone, preprocessor=None)
    inputs = models.inputs("Qwen3-MoE")
    changed = keras_moe.enable_expert_lora(task, RANK)
    assert [block.path.split("/")[0] for block in changed] == [
        f"transformer_layer_{index}" for index in range(3)
    ]
    draw(task)
    expected = numpy(backbone(inputs))
    keras_moe.save_expert_lora(task, tmp_path / "task.lora.h5")
    again = keras_hub.models.Qwen3MoeBackbone(**options)
    for weight, other in zip(again.weights, weights_without(backbone)):
        weight.assign(other)
    keras_moe.load_expert_lora(again, tmp_path / "task.lora.h5")
    np.testing.assert_array_equal(numpy(again(inputs)), expected)


def weights_without(model):
    """All but adapters."""
    return [w for w in model.weights if not w.name.startswith("lora_")]


@pytest.mark.once
def test_weights_of_kerashub_load_beside_adapters(tmp_path):
    model, other = models.backbone("gpt-oss"), models.backbone("gpt-oss", 1)
    other.save_weights(tmp_path / "other.weights.h5")
    expected = numpy(other(models.inputs("gpt-oss")))
    keras_moe.enable_expert_lora(model, RANK)
    model.load_weights(tmp_path / "other.weights.h5")
    models.close(numpy(model(models.inputs("gpt-oss"))), expected)


@pytest.mark.once
def test_errors(tmp_path):
    path = tmp_path / "adapters.lora.h5"
    model = models.backbone("Mixtral")
    for function in (
        keras_moe.merge_expert_lora,
        lambda model: keras_moe.save_expert_lora(model, path),
    ):
        with pytest.raises(
            ValueError, match="^model must have experts with ad"
        ):
            function(model)
    with pytest.raises(ValueError, match="^rank must be an integer"):
        keras_moe.enable_expert_lora(model, 0)
    with pytest.raises(ValueError, match="^alpha must be a finite number, gr"):
        keras_moe.enable_expert_lora(model, RANK, 0.0)
    assert keras_moe.use_dense_experts(model) == []
    keras_moe.enable_expert_lora(model, RANK)
    with pytest.raises(ValueError, match="^model must have experts without ad"):
        keras_moe.enable_expert_lora(model, RANK)
    with pytest.raises(ValueError, match="before they get adapters"):
        keras_moe.quantize_experts(model, "int8")
    with pytest.raises(ValueError, match="or have adapters"):
        keras_moe.use_dense_experts(model)
    for filepath in (tmp_path / "adapters.h5", 3):
        with pytest.raises(ValueError, match="^filepath must be a path that e"):
            keras_moe.save_expert_lora(model, filepath)
    keras_moe.save_expert_lora(model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    other = models.backbone("Mixtral", seed=1)
    with pytest.raises(ValueError, match="must be loaded into the model that"):
        keras_moe.load_expert_lora(other, path)
    assert not adapters(other)
    other = models.backbone("Mixtral")
    keras_moe.enable_expert_lora(other, RANK, ALPHA)
    with pytest.raises(
        ValueError, match=r"model's alpha, 3\.0; its alpha is 2"
    ):
        keras_moe.load_expert_lora(other, path)
    other = models.backbone("gpt-oss")
    trained = len(other.trainable_weights)
    with pytest.raises(ValueError, match="must have what was trained of this"):
        keras_moe.load_expert_lora(other, path)
    assert len(other.trainable_weights) == trained
    assert keras_moe.use_dense_experts(other) == []
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match="is no whole file of save_expert_lora"
    ):
        keras_moe.load_expert_lora(model, path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(
        ValueError, match="is no whole file of save_expert_lora"
    ):
        keras_moe.load_expert_lora(model, path)


@pytest.mark.once
def test_adapters_start_as_he_uniform_of_each_expert():
    layer = models.block("Qwen3-MoE")
    keras_moe.enable_expert_lora(layer, 4)
    kernel = layer.expert_bank._expert_feedforward_output_dense
    assert isinstance(kernel, kernels.AdaptedKernel)
    a = numpy(kernel.a)
    bound = (6 / models.HIDDEN) ** 0.5
    assert 0.9 * bound < np.abs(a).max() <= bound
    assert len(np.unique(a)) == a.size
    assert not numpy(kernel.b).any()

"""Experts in 8 and 4 bits: what they compute, what they save, how large."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_moe
from keras_moe.kerashub import kernels
from keras_moe.kerashub import sparse
from keras_moe.ops.grouped import made
from tests.kerashub import models
from tests.support import BACKEND
from tests.support import numpy

MODES = ("int8", "int4")
# Families differ in what their kernels are called; products are the backend's.
cases = pytest.mark.parametrize(
    "family, mode",
    [(family, mode) for family in models.FAMILIES for mode in MODES]
    if BACKEND == "torch"
    else [("Mixtral", "int4"), ("gpt-oss", "int8")],
)


def banks(model):
    """Pairs of a bank and {attribute: kernel} of a model's families."""
    for family, layer in sparse.found(model):
        bank = family.bank_of(layer)
        yield bank, {name: getattr(bank, name) for name in family.kernels}


def rounded(model):
    """{path: kernel in float} of what the integers stand for."""
    found = {}
    for _, own in banks(model):
        for kernel in own.values():
            experts = [kernel.of_expert(e) for e in range(kernel.shape[0])]
            found[kernel.values.path] = np.stack(experts)
    return found


def difference(actual, expected):
    """Relative, in the Euclidean norm over all entries."""
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@cases
def test_block_computes_with_its_rounded_kernels(family, mode):
    layer = models.block(family)
    plain = models.block(family)
    (block,) = keras_moe.quantize_experts(layer, mode, group_size=4)
    assert block.family == family
    assert keras_moe.quantize_experts(layer, mode, group_size=4) == []
    kernels_by_name = {
        path.split("/")[-1]: kernel for path, kernel in rounded(layer).items()
    }
    bank = models.bank(family, plain)
    for weight in bank.weights:
        if weight.name in kernels_by_name:
            kernel = kernels_by_name.pop(weight.name)
            assert (
                difference(kernel, numpy(weight))
                < {"int8": 0.01, "int4": 0.15}[mode]
            )
            weight.assign(kernel)
    assert not kernels_by_name
    tokens = models.normal(2, 6, models.FEATURES)
    cotangent = models.normal(2, 6, models.FEATURES, seed=1)

    def results(layer):
        def call():
            return models.call_block(layer, tokens)[0]

        return models.derivatives(layer, call, cotangent)

    expected, actual = results(plain), results(layer)
    models.close(actual[0], expected[0])
    # Of the router and whatever else is not in integers.
    names = {path.split("/")[-1] for path in actual[2]}
    assert not names & {w.name for w in bank.weights if w.ndim == 3}
    ours, theirs = (
        [g for p, g in r[2].items() if "kernel" in p or "bias" in p]
        for r in (actual, expected)
    )
    assert ours and len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        models.close(one, other)
    keras_moe.use_sparse_experts(layer, "reference")
    outputs, _ = models.call_block(layer, keras.ops.convert_to_tensor(tokens))
    models.close(numpy(outputs), expected[0])


@pytest.mark.once
@pytest.mark.parametrize(
    "mode, group, most", [("int8", 64, 0.01), ("int4", 64, 0.1)]
)
def test_error_of_normal_kernels(mode, group, most):
    """Relative, of one kernel; the largest entry is met in 4 bits."""
    kernel = models.normal(512, 32)
    groups = 1 if mode == "int8" else 512 // group
    values, scales = kernels.quantized(kernel, mode, groups)
    assert values.dtype == "int8" and scales.shape == (groups, 32)
    made = (values.reshape(groups, -1, 32) * scales[:, None]).reshape(512, 32)
    assert most / 2 < difference(made, kernel) < most
    assert values.min() >= {"int8": -127, "int4": -8}[mode]
    assert values.max() <= {"int8": 127, "int4": 7}[mode]
    zeros = kernels.quantized(np.zeros((4, 2), "float32"), mode, 1)
    assert not zeros[0].any()


def two_experts(mode, groups, dtype):
    """Quantised kernels (2,6,8)."""
    pairs = [
        kernels.quantized(models.normal(6, 8) * n, mode, groups) for n in (1, 2)
    ]
    values, scales = (ops.convert_to_tensor(np.stack(x)) for x in zip(*pairs))
    if mode == "int8":
        return made.int8_kernels(values, scales, dtype)
    values = keras.quantizers.pack_int4(values, axis=-1)[0]
    return made.int4_kernels(values, scales, dtype)


@pytest.mark.parametrize("mode, groups", [("int8", 1), ("int4", 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scales_after_the_product(mode, groups, dtype):
    """Never in 16 bits, where the sums of integers are rounded or overflow."""
    rows = ops.cast(models.normal(5, 6), dtype)
    chosen = two_experts(mode, groups, rows.dtype)
    assert (chosen.parts == 0) is (dtype == "bfloat16")
    kernel = chosen.one(1)
    grads = ops.cast(models.normal(5, 8), dtype)
    for turned, given in ((False, rows), (True, grads)):
        expected = given @ (ops.transpose(kernel) if turned else kernel)
        for ours in (
            chosen.multiply(given, 1, turned),
            chosen.by_pieces(given, chosen.pieces(1), turned),
        ):
            pair = (ops.cast(x, "float32") for x in (ours, expected))
            models.close(*map(numpy, pair))


@pytest.mark.once
@pytest.mark.parametrize("mode, groups", [("int8", 1), ("int4", 3)])
def test_gradients_of_scaled_products(mode, groups):
    """On PyTorch's CPUs; rows behind the last bound are of no expert."""
    import torch

    from keras_moe.ops.cpu import torch_grouped

    chosen = two_experts(mode, groups, "float32")
    rows = torch.tensor(models.normal(5, 6), requires_grad=True)
    results = []
    for kernels_ in (chosen, chosen.all()):
        outputs = torch_grouped.product(rows, kernels_, [0, 3, 4])
        loss = outputs.square().sum()
        (grad,) = torch.autograd.grad(loss, rows, create_graph=True)
        (again,) = torch.autograd.grad(grad.square().sum(), rows)
        results.append([outputs, grad, again])
    for ours, theirs in zip(*results):
        models.close(numpy(ours), numpy(theirs))
        assert not numpy(ours)[4].any()


@pytest.mark.once
def test_groups_divide_the_inputs():
    sizes = {(512, 64): 64, (192, 128): 96, (2880, 64): 64, (8, 64): 8}
    for (features, most), size in sizes.items():
        assert kernels.group_of(features, most) == size
    layer = models.block("gpt-oss")
    keras_moe.quantize_experts(layer, "int4", group_size=3)
    shapes = {w.name: tuple(w.shape) for w in layer.experts.weights}
    assert shapes["gate_up_proj"] == (8, 8, 4)
    assert shapes["gate_up_proj_scale"] == (8, 4, 8)


@pytest.mark.once
@pytest.mark.parametrize(
    "family, mode",
    [("Mixtral", "int4"), ("gpt-oss", "int8")],
)
def test_files(family, mode, tmp_path):
    inputs = models.inputs(family)
    model = models.backbone(family)
    model.save(tmp_path / "float.keras")
    model.save_to_preset(str(tmp_path / "float"))
    keras_moe.quantize_experts(model, mode)
    expected = numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    model.save_to_preset(str(tmp_path / "preset"))
    model.save_weights(tmp_path / "model.weights.h5")
    # KerasHub refuses what it cannot compute.
    with pytest.raises(
        ValueError, match=r"expected \d variables, but received"
    ):
        keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(
        ValueError, match=r"expected \d variables, but received"
    ):
        keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    with keras_moe.quantize_while_loading(mode):
        read = [
            keras.models.load_model(tmp_path / "model.keras"),
            keras.models.load_model(tmp_path / "float.keras"),
            keras_hub.models.Backbone.from_preset(str(tmp_path / "preset")),
            keras_hub.models.Backbone.from_preset(str(tmp_path / "float")),
        ]
    quantised = models.backbone(family, seed=1)
    keras_moe.quantize_experts(quantised, mode)
    quantised.load_weights(tmp_path / "model.weights.h5")
    for again in (*read, quantised):
        assert keras_moe.quantize_experts(again, mode) == []
        np.testing.assert_array_equal(numpy(again(inputs)), expected)
    other = {"int8": "int4", "int4": "int8"}[mode]
    with (
        pytest.raises(ValueError, match="must hold the experts of '"),
        keras_moe.quantize_while_loading(other),
    ):
        keras.models.load_model(tmp_path / "model.keras")


@pytest.mark.once
def test_float_kernels_are_freed(monkeypatch):
    """While a model is built, those of one block are there at a time."""
    alive = []
    quantise = kernels.QuantizedKernel.__init__

    def counted(self, bank, variable, *args):
        alive.append(variable)
        quantise(self, bank, variable, *args)

    monkeypatch.setattr(kernels.QuantizedKernel, "__init__", counted)
    options = models.SHARED | models.OWN["Qwen3-MoE"] | {"num_layers": 3}
    with keras_moe.quantize_while_loading("int8"):
        model = keras_hub.models.Qwen3MoeBackbone(**options)
    assert len(alive) == 6
    held = {id(weight) for weight in model.weights}
    assert not held & {id(variable) for variable in alive}
    assert {
        w.dtype for w in model.weights if w.ndim == 3 and "exp" in w.path
    } == {"int8", "float32"}
    floats = [
        w for w in model.weights if "experts/" in w.path and w.dtype != "int8"
    ]
    assert floats and all(w.name.endswith("_scale") for w in floats)
    # Models that are made afterwards are KerasHub's own.
    plain = keras_hub.models.Qwen3MoeBackbone(**options)
    assert keras_moe.use_dense_experts(plain) == []
    with pytest.raises(ValueError, match="quantised or have adapters"):
        keras_moe.use_dense_experts(model)


@pytest.mark.once
def test_modules_forget_float_kernels():
    """Those of PyTorch, where a layer holds what the layers in it have."""
    layer = models.block("Qwen3-MoE")
    keras_moe.quantize_experts(layer, "int8")
    keras_moe.enable_expert_lora(layer, 2)
    keras_moe.merge_expert_lora(layer)
    if BACKEND == "torch":
        held = {id(parameter) for parameter in layer.parameters()}
        assert held == {id(weight.value) for weight in layer.weights}
    assert [w.dtype for w in layer.expert_bank.weights] == [
        "int8",
        "float32",
    ] * 2


@pytest.mark.once
def test_quantised_again_after_an_error(monkeypatch):
    """An error in between leaves a bank that computes and can be quantised."""
    layer = models.block("Qwen3-MoE")
    tokens = keras.ops.convert_to_tensor(models.normal(2, 6, models.FEATURES))
    expected = numpy(layer(tokens)[0])
    quantise, calls = kernels.quantized, []

    def fails(*args):
        calls.append(args)
        if len(calls) > models.EXPERTS:  # in the second kernel
            raise MemoryError
        return quantise(*args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(kernels, "quantized", fails)
        keras_moe.quantize_experts(layer, "int8")
    assert 0 < difference(numpy(layer(tokens)[0]), expected) < 0.05
    assert len(keras_moe.quantize_experts(layer, "int8")) == 1
    assert len(rounded(layer)) == 2


@pytest.mark.once
def test_converters_assign_kernels():
    layer = models.block("Qwen3-MoE")
    keras_moe.quantize_experts(layer, "int8")
    kernel = layer.expert_bank._expert_feedforward_gate_dense
    values = models.normal(*kernel.shape)
    kernel.assign(values)
    assert (
        difference(np.stack([kernel.of_expert(e) for e in range(8)]), values)
        < 0.01
    )
    with pytest.raises(ValueError, match=r"must have the shape \(8, 8, 8\)"):
        kernel.assign(values[:4])


@pytest.mark.once
def test_errors():
    layer = models.block("Mixtral")
    with pytest.raises(ValueError, match="^mode must be one of 'int8', 'int4'"):
        keras_moe.quantize_experts(layer, "fp8")
    with (
        pytest.raises(ValueError, match="^mode must be one of 'int8', 'int4'"),
        keras_moe.quantize_while_loading("int2"),
    ):
        pass
    with pytest.raises(ValueError, match="^group_size must be an integer"):
        keras_moe.quantize_experts(layer, "int4", group_size=0)
    keras_moe.quantize_experts(layer, "int4")
    with pytest.raises(ValueError, match="quantised already.*mode='int4'"):
        keras_moe.quantize_experts(layer, "int8")
    odd = keras_hub.models.MixtralBackbone(
        **models.SHARED | {"intermediate_dim": 3, "top_k": 2}
    )
    with pytest.raises(ValueError, match="odd number of outputs"):
        keras_moe.quantize_experts(odd, "int4")
    prime = keras_hub.models.MixtralBackbone(
        **models.SHARED | {"intermediate_dim": 26, "top_k": 2}
    )
    with pytest.raises(
        ValueError, match="a divisor of 26,.* such as 13; received 12, .* 2 in"
    ):
        keras_moe.quantize_experts(prime, "int4", group_size=12)
    assert keras_moe.use_dense_experts(prime) == []
    assert keras_moe.use_dense_experts(odd) == []
    assert len(keras_moe.quantize_experts(odd, "int8")) == 1

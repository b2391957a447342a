"""KerasHub's mixtures of experts, sparse: all that they compute stays equal."""

import json
import zipfile

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.models.mixtral.mixtral_decoder import MixtralSparseMoeBlock
from keras_hub.src.tests import test_case

import keras_moe
from keras_moe.kerashub import products
from keras_moe.kerashub import sparse
from tests.kerashub import models
from tests.support import BACKEND
from tests.support import numpy
from tests.support import run

families = pytest.mark.parametrize("family", models.FAMILIES)
# Whole models take seconds to compile, and differ in their blocks alone.
some_families = pytest.mark.parametrize(
    "family", models.FAMILIES if BACKEND == "torch" else ["Mixtral"]
)


def close(actual, expected, tolerance=1e-5):
    """Equal up to rounding, relative to the largest entry."""
    assert np.isfinite(actual).all()
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def same(actual, expected, tolerance=1e-5):
    """The same for outputs, losses and gradients of `models.derivatives`."""
    close(actual[0], expected[0], tolerance)
    assert len(actual[1]) == len(expected[1])
    close(np.array(actual[1]), np.array(expected[1]), tolerance)
    assert set(actual[2]) == set(expected[2])
    for path, gradient in expected[2].items():
        close(actual[2][path], gradient, tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def applied(monkeypatch):
    """The layers whose sparse experts were called or compiled, in order."""
    layers, apply = [], products.apply_experts

    def counted(layer, *args):
        layers.append(layer)
        return apply(layer, *args)

    monkeypatch.setattr(products, "apply_experts", counted)
    return layers


@families
def test_block_its_losses_and_gradients(family):
    layer = models.block(family)
    tokens = normal(2, 6, models.FEATURES)
    cotangent = normal(2, 6, models.FEATURES, seed=1)
    attention = {}
    if models.takes_mask(layer):
        mask = np.ones((2, 6), bool)
        mask[0, :2] = False
        if family in ("Qwen1.5-MoE", "Qwen3-MoE"):  # causal ones of attention
            mask = np.tril(np.ones((6, 6), bool)) & mask[:, None]
        attention = {"attention_mask": mask, "training": True}

    def call():
        return models.call_block(layer, tokens, **attention)[0]

    expected = models.derivatives(layer, call, cotangent)
    assert len(expected[1]) == len(attention) / 2
    assert len(keras_moe.use_sparse_experts(layer)) == 1
    actual = models.derivatives(layer, call, cotangent)
    same(actual, expected)
    bank = models.bank(family, layer)
    for weight in bank.trainable_variables:
        assert np.abs(expected[2][weight.path]).max() > 0


@pytest.mark.once
@families
def test_backbone_and_its_gradients(family):
    model = models.backbone(family)
    inputs = models.inputs(family)
    cotangent = normal(2, 5, models.FEATURES)

    def call():
        return model(inputs, training=True)

    expected = models.derivatives(model, call, cotangent)
    changed = keras_moe.use_sparse_experts(model)
    assert [block.family for block in changed] == [family]
    actual = models.derivatives(model, call, cotangent)
    same(actual, expected)
    assert len(expected[1]) == (family not in ("gpt-oss", "Gemma 4"))
    named = {path.split("/")[-1] for path in expected[2]}
    assert len(named) > 5
    assert all(
        np.abs(g).max() > 0 for p, g in expected[2].items() if "exp" in p
    )


@families
def test_block_in_mixed_bfloat16(family):
    layer = models.block(family, "mixed_bfloat16")
    tokens = normal(2, 6, models.FEATURES)
    cotangent = normal(2, 6, models.FEATURES, seed=1)
    variables = [v for v in layer.trainable_variables if "exp" in v.path]

    def call():
        return models.call_block(layer, keras.ops.cast(tokens, "bfloat16"))[0]

    expected = models.derivatives(layer, call, cotangent, variables)
    assert len(keras_moe.use_sparse_experts(layer)) == 1
    actual = models.derivatives(layer, call, cotangent, variables)
    same(actual, expected, 2e-2)


@families
def test_experts_that_no_token_chose_are_not_computed(family):
    layer = models.block(family)
    tokens = normal(1, 2, models.FEATURES)  # 4 of 8 experts at most
    weights = [numpy(weight) for weight in layer.weights]
    dense = models.program(layer, tokens)
    expected, scores = dense(*weights)
    chosen = np.argsort(-scores, axis=-1)[:, : models.TOP_K]
    others = np.setdiff1d(np.arange(models.EXPERTS), chosen)
    # Whatever the others' weights are, and all of them are a bank's.
    poisoned = [np.array(weight) for weight in weights]
    paths = {w.path for w in models.bank(family, layer).weights}
    for weight, values in zip(layer.weights, poisoned):
        if weight.path in paths:
            values[others] = np.nan
    assert np.isnan(dense(*poisoned)[0]).any()

    for implementation in ("reference", "auto"):
        (block,) = keras_moe.use_sparse_experts(layer, implementation)
        assert block.path.startswith(layer.path) and block.family == family
        assert keras_moe.use_sparse_experts(layer, implementation) == []
        sparse = models.program(layer, tokens)
        close(sparse(*weights)[0], expected)
    close(sparse(*poisoned)[0], expected)

    assert keras_moe.use_dense_experts(layer) == [block]
    again = models.program(layer, tokens)(*weights)
    np.testing.assert_array_equal(again[0], expected)
    assert keras_moe.use_dense_experts(layer) == []


def test_capture_has_the_plan():
    layer = models.block("gpt-oss")
    keras_moe.use_sparse_experts(layer)
    with keras_moe.diagnostics.capture() as plans:
        layer(normal(2, 3, models.FEATURES))
    assert plans[layer.path].expert.shape == (1, 6, models.TOP_K)


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
    close(np.array(found[1][0]), np.array(found[0][0]))
    for actual, expected in zip(found[1][1], found[0][1], strict=True):
        close(actual, expected)


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
    close(numpy(clone(inputs)), expected)


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


def test_compiled_programs_are_made_anew(applied):
    model = models.task("Qwen3-MoE")
    inputs = models.inputs("Qwen3-MoE")
    expected = model.predict(inputs, verbose=0)
    assert len(keras_moe.use_sparse_experts(model)) == 1
    assert applied == []
    close(model.predict(inputs, verbose=0), expected)
    assert applied
    # Programs stay where nothing changes.
    program = model.predict_function
    assert keras_moe.use_sparse_experts(model) == []
    assert model.predict_function is program
    applied.clear()
    keras_moe.use_dense_experts(model)
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), expected)
    assert applied == []


def test_mixtral_jitter():
    layer = models.block("Mixtral")
    plain = models.block("Mixtral")
    layer.router_jitter_noise = 0.1
    tokens = normal(1, 3, models.FEATURES)
    with pytest.raises(AttributeError):
        layer(tokens, training=True)
    keras_moe.use_sparse_experts(layer)

    def call(x):
        return layer(x, training=True)[1], plain(x)[1]

    jittered, logits = run(call, tokens)
    assert np.abs(jittered - logits).max() > 1e-3
    kernel = numpy(layer._sparse_feedforward_gate_dense.kernel)
    most = 0.1 * np.abs(tokens[0]) @ np.abs(kernel)
    assert (np.abs(jittered - logits) <= most + 1e-5).all()
    # Other tokens get other noise; without training there is none.
    again = run(call, 2 * tokens)[0]
    assert np.abs(again - 2 * jittered).max() > 1e-3
    close(numpy(layer(tokens, training=False)[1]), logits)
    assert len(layer.variables) == len(plain.variables)


class Overriding(MixtralSparseMoeBlock):
    def call(self, hidden_states, attention_mask=None, training=False):
        return hidden_states, hidden_states


class Inheriting(MixtralSparseMoeBlock):
    pass


def in_one_model(second):
    """A model with two blocks, the second of this class."""
    layers = []
    for kind in (MixtralSparseMoeBlock, second):
        layers.append(kind(models.FEATURES, 4, 4))
        layers[-1].build((None, None, models.FEATURES))
    model = keras.layers.Layer()
    model.blocks = layers
    return model, layers


def test_errors_leave_everything_as_it_was(monkeypatch):
    use = keras_moe.use_sparse_experts
    model, layers = in_one_model(Overriding)
    with pytest.raises(ValueError, match="call of 'overriding.*Overriding"):
        use(model)
    assert all("call" not in vars(layer) for layer in layers)
    model, layers = in_one_model(Inheriting)
    assert len(use(layers[1])) == 1
    assert len(use(model)) == 1
    assert len(keras_moe.use_dense_experts(model)) == 2
    with pytest.raises(
        ValueError, match="implementation must be one of 'auto'"
    ):
        use(model, "gather")
    with pytest.raises(ValueError, match="Mixtral, Qwen1.5-MoE.*'dense'"):
        use(keras.layers.Dense(2, name="dense"))
    with pytest.raises(ValueError, match="must be built"):
        keras_moe.use_dense_experts(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="model must be a Keras model"):
        use("mixtral_8_7b_en")
    # A call of another's own, and code of another version.
    layers[1].expert_bank.__dict__["call"] = lambda hidden_states: None
    with pytest.raises(ValueError, match="has another one of its own"):
        use(model)
    del layers[1].expert_bank.__dict__["call"]
    formulas = {"": ("0",), "expert_bank": ("0",)}
    other = sparse.MIXTRAL._replace(formulas=formulas)
    monkeypatch.setattr(sparse, "FAMILIES", (other,))
    with pytest.raises(ValueError, match=r"knows of Mixtral.*KerasHub \d"):
        use(model)
    assert all("call" not in vars(layer) for layer in layers)

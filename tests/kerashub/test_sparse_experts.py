"""KerasHub's blocks with sparse experts: what they compute stays equal."""

import keras
import numpy as np
import pytest
from keras_hub.src.models.gpt_oss.gpt_oss_decoder import GptOssSparseMoeBlock
from keras_hub.src.models.mixtral.mixtral_decoder import MixtralSparseMoeBlock

import keras_moe
from keras_moe.kerashub import sparse
from tests.kerashub import models
from tests.support import numpy
from tests.support import run

families = pytest.mark.parametrize("family", models.FAMILIES)


@families
def test_block_its_losses_and_gradients(family):
    layer = models.block(family)
    tokens = models.normal(2, 6, models.FEATURES)
    cotangent = models.normal(2, 6, models.FEATURES, seed=1)
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
    models.same(actual, expected)
    bank = models.bank(family, layer)
    for weight in bank.trainable_variables:
        assert np.abs(expected[2][weight.path]).max() > 0


@families
def test_block_in_mixed_bfloat16(family):
    layer = models.block(family, "mixed_bfloat16")
    tokens = models.normal(2, 6, models.FEATURES)
    cotangent = models.normal(2, 6, models.FEATURES, seed=1)

    def call():
        return models.call_block(layer, keras.ops.cast(tokens, "bfloat16"))[0]

    expected = models.derivatives(layer, call, cotangent)
    assert len(keras_moe.use_sparse_experts(layer)) == 1
    actual = models.derivatives(layer, call, cotangent)
    models.same(actual, expected, 2e-2)


def test_auxiliary_loss_in_mixed_bfloat16():
    """KerasHub 0.32 raises an error on TensorFlow."""
    tokens = models.normal(2, 6, models.FEATURES)
    mask = np.ones((2, 6), bool)
    mask[0, :2] = False
    losses = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = models.block("Qwen3.5-MoE", dtype)
        keras_moe.use_sparse_experts(layer)
        layer(
            keras.ops.cast(tokens, layer.compute_dtype),
            attention_mask=mask,
            training=True,
        )
        (loss,) = layer.losses
        losses.append(float(numpy(keras.ops.cast(loss, "float32"))))
    assert losses[0] > 0
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@families
def test_experts_that_no_token_chose_are_not_computed(family):
    layer = models.block(family)
    tokens = models.normal(1, 2, models.FEATURES)  # 4 of 8 experts at most
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
        models.close(sparse(*weights)[0], expected)
    models.close(sparse(*poisoned)[0], expected)

    assert keras_moe.use_dense_experts(layer) == [block]
    again = models.program(layer, tokens)(*weights)
    np.testing.assert_array_equal(again[0], expected)
    assert keras_moe.use_dense_experts(layer) == []


@pytest.mark.once
def test_capture_has_the_plan():
    layer = models.block("gpt-oss")
    keras_moe.use_sparse_experts(layer)
    with keras_moe.diagnostics.capture() as plans:
        layer(models.normal(2, 3, models.FEATURES))
    assert plans[layer.path].expert.shape == (1, 6, models.TOP_K)


def test_mixtral_jitter():
    layer = models.block("Mixtral")
    plain = models.block("Mixtral")
    layer.router_jitter_noise = 0.1
    tokens = models.normal(1, 3, models.FEATURES)
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
    models.close(numpy(layer(tokens, training=False)[1]), logits)
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
    with pytest.raises(ValueError, match="must be built"):
        use(MixtralSparseMoeBlock(models.FEATURES, 4, 4))
    with pytest.raises(ValueError, match="must be built"):
        use(GptOssSparseMoeBlock(models.FEATURES, 4, 4))
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

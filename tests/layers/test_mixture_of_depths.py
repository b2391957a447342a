"""Mixture of Depths: the rule, who matters, our blocks, training and files."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_moe.layers import MixtureOfDepths
from keras_moe.layers import Recompute
from keras_moe.models.language.block import DecoderBlock
from keras_moe.models.vision.block import TransformerBlock
from tests.layers.test_errors import raises
from tests.support import numpy
from tests.support import run

D = 8
X = np.random.default_rng(0).normal(size=(3, 12, D)).astype("float32")
MASK = np.random.default_rng(1).random((3, 12)) > 0.3
ROTARY = {"rotary": True, "causal": True}
BLOCKS = {
    "decoder": lambda: DecoderBlock(2, 16, attention_options=ROTARY),
    "transformer": lambda: TransformerBlock(2, 16),
    "kerashub": lambda: keras_hub.layers.TransformerDecoder(16, 2),
}


def dense():
    return keras.layers.Dense(D, activation="tanh", name="inner")


def make(layer=None, capacity=0.25, **options):
    layer = layer or dense()
    if isinstance(layer, keras.layers.Dense):
        options.setdefault("residual", False)
    depths = MixtureOfDepths(layer, capacity, **options)
    depths.build(X.shape)
    rng = np.random.default_rng(2)
    for weight in depths.trainable_variables:
        weight.assign(0.5 * rng.normal(size=weight.shape))
    return depths


def scores_of(layer, tokens=X):
    return (tokens @ numpy(layer.router_kernel))[..., 0]


def level(x):
    return 0.5 + 0.5 * x / (1 + np.abs(x))


def expected(layer, chosen):
    """Each sequence's chosen tokens through the layer, by themselves."""
    outputs, scores = X.copy(), scores_of(layer)
    for b, rows in enumerate(chosen):
        if not len(rows):
            continue
        options = {}
        if isinstance(layer.layer, DecoderBlock):
            options["places"] = np.array([rows], "int32")
        update = numpy(layer.layer(X[b, rows][None], **options))[0]
        if layer.residual:
            update = update - X[b, rows]
        outputs[b, rows] += scores[b, rows, None] * update
    return outputs


def top(scores, mask, number):
    """Rows of the largest scores, in order, of each sequence."""
    return [
        sorted([t for t in np.argsort(-s, kind="stable") if m[t]][:number])
        for s, m in zip(scores, mask)
    ]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", ["dense", *BLOCKS])
def test_the_chosen_pass_by_themselves(kind, masked):
    """round(0.25 · 12) = 3 of 12 tokens; where more are masked, fewer."""
    layer = make(BLOCKS[kind]() if kind in BLOCKS else None)
    mask = MASK.copy() if masked else np.ones_like(MASK)
    if masked:
        mask[0, 2:] = False
    tokens = np.where(mask[:, :, None], X, np.nan) if masked else X
    outputs = run(
        lambda x, m: layer(x, mask=m), tokens, mask if masked else None
    )
    chosen = top(scores_of(layer), mask, 3)
    assert len(chosen[0]) == (2 if masked else 3)
    outputs = np.where(mask[:, :, None], outputs, X)
    np.testing.assert_allclose(
        outputs, expected(layer, chosen), rtol=1e-4, atol=1e-5
    )


@pytest.mark.once
@pytest.mark.parametrize("training", [True, False])
def test_a_block_that_is_recomputed_gets_mask_and_places(training):
    plain, again = (
        make(BLOCKS["decoder"]()),
        make(Recompute(Recompute(BLOCKS["decoder"]()))),
    )
    again.set_weights(plain.get_weights())
    expected, found = (
        numpy(layer(X, mask=MASK, training=training))
        for layer in (plain, again)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_thresholds_choose_any_number(kind):
    layer = make(BLOCKS[kind](), inference="threshold")
    scores = scores_of(layer)
    layer.threshold.assign([level(np.median(scores))])
    chosen = [np.flatnonzero(s > np.median(scores)).tolist() for s in scores]
    assert len({len(rows) for rows in chosen}) > 1
    np.testing.assert_allclose(
        run(lambda x: layer(x), X),
        expected(layer, chosen),
        rtol=1e-4,
        atol=1e-5,
    )
    bounded = make(layer.layer, inference="threshold", inference_capacity=0.25)
    bounded.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        numpy(bounded(X)),
        expected(layer, [rows[:3] for rows in chosen]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("inference", ["predictor", "threshold"])
def test_later_tokens_do_not_matter(inference):
    layer = make(BLOCKS["decoder"](), inference=inference)
    if inference == "threshold":
        layer.threshold.assign([0.4])
    other = X.copy()
    other[:, 6:] += 1.0
    first, second = (numpy(layer(x))[:, :6] for x in (X, other))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
    assert 0 < (first != X[:, :6]).any(-1).mean() < 1


def test_a_threshold_of_large_scores_chooses_its_share():
    """A quarter of 2048 tokens, where a sigmoid would be 1 for all these."""
    layer = make(inference="threshold")
    layer.router_kernel.assign(300 * np.ones((D, 1)))
    tokens = np.random.default_rng(4).normal(size=(1, 2048, D))
    tokens = tokens.astype("float32")
    layer(tokens, training=True)
    passed = (numpy(layer(tokens)) != tokens).any(-1)
    np.testing.assert_array_equal(
        np.flatnonzero(passed[0]),
        top(scores_of(layer, tokens), np.ones_like(passed), 512)[0],
    )


@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_may_have_a_dtype_of_its_own(residual):
    for outer, inner in (
        ("mixed_bfloat16", "float32"),
        ("float32", "mixed_bfloat16"),
    ):
        layer = MixtureOfDepths(
            keras.layers.Dense(D, dtype=inner), residual=residual, dtype=outer
        )
        outputs = layer(X)
        dtype = keras.backend.standardize_dtype(outputs.dtype)
        assert dtype == layer.compute_dtype


def test_the_predictor_and_the_threshold_learn_which_tokens_top_k_chooses():
    rng = np.random.default_rng(3)
    tokens = rng.normal(size=(8, 64, D)).astype("float32")
    for inference, options in (
        ("threshold", {"threshold_momentum": 0.5}),
        ("predictor", {"predictor_dim": 16}),
    ):
        layer = make(inference=inference, **options)
        inputs = keras.Input((64, D))
        model = keras.Model(inputs, layer(inputs))
        for weight in (layer.router_kernel, *layer.layer.weights):
            weight.trainable = False
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(tokens, tokens, 8, epochs=30, verbose=0)
        passed = (model.predict(tokens, verbose=0) != tokens).any(-1)
        best = np.zeros_like(passed)
        for b, rows in enumerate(
            top(scores_of(layer, tokens), np.ones_like(passed), 16)
        ):
            best[b, rows] = True
        assert (passed == best).mean() > 0.9, inference


@pytest.mark.parametrize("inference", ["top_k", "predictor", "threshold"])
def test_files_and_half_precision(inference, tmp_path):
    layer = make(BLOCKS["decoder"](), inference=inference, name="depths")
    inputs = keras.Input((12, D))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    config = again.get_layer("depths").get_config()
    inner = config.pop("layer")
    assert inner["class_name"] == "DecoderBlock"
    assert config == {
        n: v for n, v in layer.get_config().items() if n in config
    }
    half = MixtureOfDepths(
        DecoderBlock(2, 16, dtype="mixed_bfloat16"),
        inference=inference,
        dtype="mixed_bfloat16",
    )
    outputs = half(X, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert half.router_kernel.dtype == "float32"
    assert len(half.losses) == (inference == "predictor")


def test_what_does_not_fit():
    for name, value, text in (
        ("capacity", 0.0, "must be a finite number, greater than 0.0"),
        ("capacity", 1.5, "must be at most 1; received 1.5"),
        ("inference_capacity", 2.0, "must be at most 1; received 2.0"),
        ("inference", "top", "must be one of 'top_k', 'predictor', 'thresh"),
        ("residual", 1, "must be True or False"),
        ("predictor_dim", 0, "must be an integer of at least 1"),
        ("predictor_loss", 0.0, "must be a finite number, greater than 0.0"),
        ("threshold_momentum", 1.0, "must be a number from 0 up to, not"),
        ("router_initializer", "gloro", "must be a Keras initialiser"),
    ):
        with raises(f"{name} {text}"):
            make(**{name: value})
    with raises("layer must be a Keras layer that maps"):
        MixtureOfDepths("dense")
    with raises("inputs of MixtureOfDepths must have three axes, (batch, tok"):
        MixtureOfDepths(dense())(np.ones((2, D), "float32"))
    for features in (1, D + 1):  # 1 would broadcast
        with raises("layer must map (batch, tokens, features) to the same sh"):
            MixtureOfDepths(keras.layers.Dense(features))(X)
    for inputs, options, text in (
        (X, {"mask": MASK[:, 1:]}, "mask must have the shape of inputs with"),
        (X, {"mask": 1.0 * MASK}, "mask must be Boolean, or integers that are"),
        (X.astype("int32"), {}, "inputs must be of a floating dtype; received"),
        (X, {"places": np.ones(12, "int32")}, "places must be integers of sha"),
    ):
        with raises(text):
            MixtureOfDepths(dense())(inputs, **options)

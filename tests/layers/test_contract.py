"""One contract for all layers: shapes, masks, arguments, weight names.

Training and numbers: test_contract_training.py; files: test_contract_files.py.
"""

import inspect
import re

import keras
import numpy as np
import pytest

from tests.contract_table import BATCH
from tests.contract_table import EACH_ROUTER
from tests.contract_table import EVERYTHING
from tests.contract_table import EXPERTS
from tests.contract_table import FEATURES
from tests.contract_table import HIDDEN
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS
from tests.contract_table import WRAPPERS
from tests.contract_table import evaluate
from tests.contract_table import make
from tests.contract_table import make_model
from tests.contract_table import randomize
from tests.contract_table import tokens_of
from tests.support import BACKEND
from tests.support import weight_name

every_layer = pytest.mark.parametrize("label", LAYERS)


CLASSES = sorted({row.cls for row in EVERYTHING.values()}, key=str)
every_class = pytest.mark.parametrize("cls", CLASSES)


def close(actual, expected, tolerance=2e-6):
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


# === Shapes ===


@pytest.mark.parametrize(
    "axes, label",
    [(axes, label) for axes in [(None,), (2, 4)] for label in LAYERS]
    + [((None,), label) for label in WRAPPERS]
    + [(a, label) for a in [(TOKENS,), (None, None)] for label in EACH_ROUTER],
)
def test_symbolic_build(label, axes):
    model = make_model(label, *axes)
    assert model.output_shape == (None, *axes, FEATURES)
    layer = model.get_layer("moe")
    built = make(label)
    built.build((None, *axes, FEATURES))
    named = [(weight_name(layer, v), v.shape) for v in layer.weights]
    assert named == [(weight_name(built, v), v.shape) for v in built.weights]
    assert layer.compute_output_shape((2, *axes, 6)) == (2, *axes, 6)


@pytest.mark.parametrize("label", [*LAYERS, "depths", "depths_threshold"])
def test_unknown_lengths(label):
    """A model of unknown sizes gives what the layer gives, called as it is,
    compiled for any size, and through predict."""
    model = make_model(label, None)
    randomize(model)
    layer = make(label)
    layer.build((BATCH, TOKENS, FEATURES))
    layer.set_weights(model.get_weights())
    call = for_any_size(model)
    for batch, length in ((8, 6), (4, 12)):
        tokens = tokens_of(batch, length, seed=length)
        expected = evaluate(layer, tokens)
        assert np.abs(expected).max() > 0
        close(evaluate(model, tokens), expected)
        close(keras.ops.convert_to_numpy(call(tokens)), expected)
    close(model.predict(tokens, batch_size=batch, verbose=0), expected)


def for_any_size(model):
    """One TensorFlow graph for all sizes; jax and torch know them anyway."""
    if BACKEND != "tensorflow":
        return lambda tokens: evaluate(model, tokens)
    import tensorflow as tf

    spec = tf.TensorSpec((None, None, FEATURES), "float32")
    return tf.function(model, input_signature=[spec])


@every_layer
def test_two_token_axes(label):
    """An image is its tokens in row order; with a mask, see below.

    One layer takes both, whichever it was built for, as `Dense` does.
    """
    layer = make(label)
    layer.build((BATCH, 2, TOKENS // 2, FEATURES))
    tokens = tokens_of(BATCH, TOKENS)
    pixels = tokens.reshape(BATCH, 2, -1, FEATURES)
    expected = evaluate(layer, tokens)
    assert expected.shape == tokens.shape
    close(evaluate(layer, pixels), expected.reshape(pixels.shape))
    both = keras.Input((TOKENS, FEATURES)), keras.Input((2, 4, FEATURES))
    assert [layer(x).shape for x in both] == [x.shape for x in both]


# === Masks ===


@every_layer
def test_mask_explicit(label):
    """A masked token says nothing and gets nothing."""
    layer = make(label)
    layer.build((BATCH, TOKENS, FEATURES))
    mask = np.random.default_rng(1).random((BATCH, TOKENS)) < 0.7
    tokens = tokens_of(BATCH, TOKENS)
    other = np.where(mask[..., None], tokens, 3 * tokens_of(4, 8, seed=5))
    outputs = evaluate(layer, tokens, mask=mask)
    assert not outputs[~mask].any()
    close(evaluate(layer, other, mask=mask), outputs)
    unmasked = evaluate(layer, tokens)
    assert unmasked[~mask].any() and outputs[mask].any()
    close(evaluate(layer, tokens, mask=np.ones_like(mask)), unmasked)


@pytest.mark.parametrize(
    "axes, label",
    [((TOKENS,), label) for label in [*LAYERS, "depths"]]
    + [((2, 4), label) for label in EACH_ROUTER],
)
def test_mask_from_masking(label, axes):
    """A mask that Keras hands on does what an explicit one does."""
    inputs = keras.Input((*axes, FEATURES))
    outputs = make(label, name="moe")(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    layer = make(label)
    layer.build((BATCH, TOKENS, FEATURES))
    layer.set_weights(model.get_weights())
    mask = np.random.default_rng(1).random((BATCH, TOKENS)) < 0.7
    tokens = tokens_of(BATCH, TOKENS) * mask[..., None]
    expected = evaluate(layer, tokens, mask=mask).reshape(BATCH, *axes, -1)
    tokens = tokens.reshape(expected.shape)
    close(model.predict(tokens, batch_size=BATCH, verbose=0), expected)
    explicit = mask.reshape(BATCH, *axes)
    close(evaluate(model.get_layer("moe"), tokens, mask=explicit), expected)


@pytest.mark.parametrize("label", [*LAYERS, "depths_predictor"])
def test_mask_from_embedding_and_onwards(label):
    """The mask of an embedding reaches the layer, and what follows it."""
    ids = keras.Input((TOKENS,), dtype="int32")
    embed = keras.layers.Embedding(9, FEATURES, "normal", mask_zero=True)
    outputs = make(label, name="moe")(embed(ids))
    outputs = keras.layers.GlobalAveragePooling1D()(outputs)
    model = keras.Model(ids, outputs)
    values = np.random.default_rng(1).integers(0, 9, (BATCH, TOKENS))
    mask = values != 0
    assert mask.any() and not mask.all()
    tokens = keras.ops.convert_to_numpy(embed(values))
    expected = evaluate(model.get_layer("moe"), tokens, mask=mask)
    expected = (expected * mask[..., None]).sum(1)
    expected = expected / mask.sum(1, keepdims=True)
    close(evaluate(model, values), expected)


# === Arguments ===


@every_class
def test_signature_docstring_and_config_agree(cls):
    parameters = list(inspect.signature(cls).parameters)
    section = cls.__doc__.split("    Args:\n")[1].split("\n\n")[0]
    assert re.findall(r"^ {8}(\w+):", section, re.MULTILINE) == parameters
    label = next(k for k, row in EVERYTHING.items() if row.cls is cls)
    assert set(make(label).get_config()) == set(parameters)
    positional = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    first = "layer" if label in WRAPPERS else "num_experts"
    assert len(positional) == 2 and positional[0] == first


@every_layer
def test_attribute_is_argument_is_config(label):
    row, layer = LAYERS[label], make(label)
    before = layer.get_config()
    for built in (False, True):
        if built:
            layer.build((BATCH, TOKENS, FEATURES))
        for name, value in row.arguments.items():
            held = getattr(layer, name)
            if name == "activation":
                assert held is not value and callable(held)
            elif name == "expert":
                assert held is value and not held.built
                continue
            else:
                assert held == value and type(held) is type(value), name
            assert layer.get_config()[name] == value
        for name, default in defaults_of(row.cls).items():
            if name not in row.arguments:
                assert getattr(layer, name) == default, name
        assert layer.get_config() == before


def defaults_of(cls):
    """Defaults that are the attribute as they stand."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if isinstance(parameter.default, (int, float, type(None)))
        and name not in ("name", "dtype")
    }


@every_layer
def test_config_round_trips(label):
    layer = make(label, name="round", dtype="mixed_bfloat16", trainable=False)
    config = layer.get_config()
    copies = [
        type(layer).from_config(config),
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer)
        ),
        # Through JSON, as in a file.
        keras.layers.deserialize(keras.layers.serialize(layer)),
    ]
    for copy in copies:
        assert type(copy) is type(layer) and copy is not layer
        assert copy.get_config() == config
    assert layer.get_config() == config


# === Weights ===


def expected_weights(label):
    """Names and shapes that checkpoints rely on."""
    cls, arguments = LAYERS[label]
    kernel = {"router_kernel": (FEATURES, EXPERTS)}
    temperatures = ("merge_temperature", "emit_temperature")
    if cls.__name__ == "SoftMoE":
        slots = arguments["slots_per_expert"]
        kernel = {"slot_embedding": (FEATURES, EXPERTS, slots)}
        if arguments.get("normalize", True):
            kernel["scale"] = ()
    if arguments.get("router_bias"):
        kernel["router_bias"] = (EXPERTS,)
    if arguments.get("key_projection"):
        kernel.update(dict.fromkeys(("key_scale", "key_offset"), (FEATURES,)))
    if arguments.get("selection"):
        kernel["thresholds"] = (EXPERTS,)
    if arguments.get("learn_temperature"):
        kernel.update(dict.fromkeys(temperatures, (EXPERTS,)))
    expected = kernel
    for name, shape in (
        ("up", (FEATURES, HIDDEN)),
        ("gate", (FEATURES, HIDDEN)),
        ("down", (HIDDEN, FEATURES)),
    ):
        if name == "gate" and not arguments.get("gated"):
            continue
        expected[f"experts/{name}/kernel"] = (EXPERTS, *shape)
        if arguments.get("use_bias", True):
            expected[f"experts/{name}/bias"] = (EXPERTS, 1, shape[1])
    return expected


@every_layer
def test_weight_names_and_shapes(label):
    layer = make(label)
    layer.build((None, None, FEATURES))
    found = {weight_name(layer, v): tuple(v.shape) for v in layer.weights}
    assert len(found) == len(layer.weights)
    if "expert" in LAYERS[label].arguments:
        router = {k: v for k, v in found.items() if "experts/" not in k}
        dense = 2 if label == "choice_sequential" else 1
        assert len(found) == len(router) + EXPERTS * dense * 2
    else:
        assert found == expected_weights(label)
    trainable = {weight_name(layer, v) for v in layer.trainable_weights}
    assert trainable == set(found) - {"thresholds"}

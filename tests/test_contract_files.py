"""One contract for all layers: saving, cloning, and exporting to a file."""

import keras
import numpy as np
import pytest

from tests.contract_table import BATCH
from tests.contract_table import FEATURES
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS
from tests.contract_table import evaluate
from tests.contract_table import make_model
from tests.contract_table import randomize
from tests.contract_table import tokens_of
from tests.support import BACKEND

every_layer = pytest.mark.parametrize("label", LAYERS)


HARD = [k for k in LAYERS if k.startswith(("choice", "token"))]
SOFT = [k for k in LAYERS if k not in HARD]
GROUPED = ["choice_grouped", "token_losses"]


def random_model(label, *token_axes):
    model = make_model(label, *token_axes)
    randomize(model.get_layer("moe"))
    return model


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected)


# === Saving ===


@every_layer
def test_keras_file(label, tmp_path):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    same(evaluate(loaded, tokens), evaluate(model, tokens))
    assert loaded.get_layer("moe").get_config() == (
        model.get_layer("moe").get_config()
    )
    loaded.compile("sgd", "mse")
    loaded.fit(tokens, tokens, BATCH, verbose=0)


@every_layer
def test_weights_file(label, tmp_path):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = make_model(label, TOKENS)
    assert np.abs(evaluate(loaded, tokens) - evaluate(model, tokens)).max() > 0
    loaded.load_weights(tmp_path / "model.weights.h5")
    same(evaluate(loaded, tokens), evaluate(model, tokens))


@every_layer
def test_clone_model(label):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    clone = keras.models.clone_model(model)
    assert clone.get_layer("moe") is not model.get_layer("moe")
    assert [w.path for w in clone.weights] == [w.path for w in model.weights]
    clone.set_weights(model.get_weights())
    same(evaluate(clone, tokens), evaluate(model, tokens))


@pytest.mark.parametrize("label", ["soft", "token", "soft_gated"])
def test_int8_file(label, tmp_path, quick_quantization):
    model, tokens = random_model(label, None), tokens_of(BATCH, TOKENS)
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same(evaluate(loaded, tokens), evaluate(model, tokens))


@pytest.mark.parametrize("label", ["soft_dense", "choice_sequential"])
def test_int8_clones_are_not_saved(label, tmp_path, quick_quantization):
    model = random_model(label, None)
    model.quantize("int8")
    with pytest.raises(ValueError, match="expert= cannot be saved once it is"):
        model.save(tmp_path / "model.keras")


# === Exporting ===

# What is known of the input's shape when a model is exported. What runs where
# more is unknown runs where less is.
SIGNATURES = {
    "any length": (None, None, FEATURES),
    "any batch": (None, TOKENS, FEATURES),
    "fixed": (BATCH, TOKENS, FEATURES),
}
# Backend -> format -> signature -> the layers for which it is the most general
# one that works. With UNSUPPORTED below, this is the whole truth.
SUPPORTED = {
    "tensorflow": {
        "tf_saved_model": {"any length": list(LAYERS)},
        "onnx": {"any length": list(LAYERS)},
    },
    "jax": {
        "tf_saved_model": {
            "any length": SOFT,
            "any batch": [k for k in HARD if k not in GROUPED],
            "fixed": GROUPED,
        },
        "onnx": {
            "any length": [k for k in SOFT if not k.startswith("mixture")],
            "any batch": ["mixture_sequence"],
            "fixed": [
                *("mixture", "mixture_learned", "mixture_argmax"),
                *HARD,
            ],
        },
    },
    "torch": {
        "onnx": {"any length": SOFT},
        "torch": {"fixed": [k for k in LAYERS if k != "choice_capped"]},
    },
}
# (backend, format, signature) -> layers, error text, and the reason.
UNSUPPORTED = {
    ("tensorflow", "torch", "fixed"): (
        ["soft", "token"],
        "requires PyTorch backend",
        "not offered by Keras",
    ),
    ("jax", "tf_saved_model", "any length"): (
        [k for k in HARD if k not in GROUPED],
        "num_tokens must be known .* input_signature",
        "the capacity is the size of an array, which jax must know",
    ),
    ("jax", "tf_saved_model", "any batch"): (
        GROUPED,
        "Cannot divide evenly",
        "whether group_size divides an unknown batch cannot be known",
    ),
    ("jax", "torch", "fixed"): (
        ["soft", "token"],
        "requires PyTorch backend",
        "not offered by Keras",
    ),
    ("torch", "tf_saved_model", "fixed"): (
        ["soft", "token"],
        "torch_xla",
        "Keras needs torch_xla for it, which ended with torch 2.9",
    ),
    ("torch", "onnx", "fixed"): (
        HARD,
        "ONNX",
        "PyTorch's exporter has no stable sort",
    ),
    ("torch", "torch", "fixed"): (
        ["choice_capped"],
        "data-dependent control flow",
        "the rounds of capped choice would be written down one by one",
    ),
}


def cases(table):
    return [
        pytest.param(export, known, label, id=f"{export}-{known}-{label}")
        for export, known, labels in table
        for label in labels
    ]


def supported():
    for export, signatures in SUPPORTED[BACKEND].items():
        for known, labels in signatures.items():
            yield export, known, labels


def unsupported():
    for (backend, export, known), (labels, *_) in UNSUPPORTED.items():
        if backend == BACKEND:
            yield export, known, labels


def exported(model, export, known, folder):
    """Write the model to a file; returns the file's content as a function."""
    signature = [keras.InputSpec(shape=SIGNATURES[known], dtype="float32")]
    path = str(folder / {"onnx": "m.onnx", "torch": "m.pt2"}.get(export, "m"))
    model.export(path, export, verbose=False, input_signature=signature)
    if export == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)
        return lambda tokens: loaded.serve(tokens).numpy()
    if export == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
        return lambda tokens: session.run(None, {name: tokens})[0]
    import torch

    program = torch.export.load(path).module()
    return lambda tokens: program(torch.tensor(tokens)).detach().numpy()


@pytest.mark.parametrize("export, known, label", cases(supported()))
def test_export(export, known, label, tmp_path):
    model = random_model(label, *SIGNATURES[known][1:-1])
    run = exported(model, export, known, tmp_path)
    # A batch of 3 leaves a group of two sequences incomplete.
    whole = label in GROUPED
    shapes = {
        "any length": (4, 12) if whole else (3, 10),
        "any batch": (3, TOKENS),
        "fixed": (BATCH, TOKENS),
    }
    for seed in range(2):
        tokens = tokens_of(*shapes[known], seed=seed)
        expected = evaluate(model, tokens)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(run(tokens), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("export, known, label", cases(unsupported()))
def test_export_not_offered_raises(export, known, label, tmp_path):
    model = random_model(label, *SIGNATURES[known][1:-1])
    _, text, reason = UNSUPPORTED[BACKEND, export, known]
    assert reason
    with pytest.raises(Exception, match=f"(?s){text}"):
        exported(model, export, known, tmp_path)


def test_every_layer_has_its_place_in_the_tables():
    for export, signatures in SUPPORTED[BACKEND].items():
        listed = sum(signatures.values(), [])
        for known in SIGNATURES:
            labels, *_ = UNSUPPORTED.get((BACKEND, export, known), [[]])
            listed += [] if set(labels) <= set(listed) else labels
        assert sorted(listed) == sorted(LAYERS), export

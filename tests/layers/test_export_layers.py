"""Each layer, exported to a file and run there, gives what it gave before."""

import pathlib

import keras
import numpy as np
import pytest

from tests.contract_table import BATCH
from tests.contract_table import EACH_ROUTER
from tests.contract_table import LAYERS
from tests.contract_table import TOKENS
from tests.contract_table import evaluate
from tests.contract_table import make_model
from tests.contract_table import randomize
from tests.contract_table import tokens_of
from tests.export_table import SIGNATURES
from tests.export_table import SLOW
from tests.export_table import SUPPORTED
from tests.export_table import UNSUPPORTED
from tests.export_table import layer_outcomes
from tests.export_table import markdown
from tests.exporting import exported
from tests.support import BACKEND


def random_model(label, *token_axes):
    model = make_model(label, *token_axes)
    randomize(model.get_layer("moe"))
    return model


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


def written(model, export, known, folder):
    """The content of the file, as a function of tokens."""
    signature = keras.InputSpec(shape=SIGNATURES[known], dtype="float32")
    return exported(model, export, signature, folder)


@pytest.mark.parametrize("export, known, label", cases(supported()))
def test_export(export, known, label, tmp_path):
    model = random_model(label, *SIGNATURES[known][1:-1])
    run = written(model, export, known, tmp_path)
    shapes = {  # a batch of 3 leaves a group of two sequences incomplete
        "any length": (3, 10),
        "any batch": (3, TOKENS),
        "fixed": (BATCH, TOKENS),
    }
    for seed in range(2):
        tokens = tokens_of(*shapes[known], seed=seed)
        expected = evaluate(model, tokens)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(run(tokens), expected, 1e-5, 1e-5)


@pytest.mark.parametrize(
    "name", ["auto", "streaming"] if BACKEND == "jax" else []
)
def test_a_model_runs_after_its_export(name, tmp_path):
    """JAX's exporter traces in its own way and knows no choice of platforms."""
    model = make_model("soft", TOKENS, implementation=name)
    run = written(model, "onnx", "fixed", tmp_path)
    tokens = tokens_of(BATCH, TOKENS)
    np.testing.assert_allclose(run(tokens), evaluate(model, tokens), 1e-5, 1e-5)


@pytest.mark.parametrize("export, known, label", cases(unsupported()))
def test_export_not_offered_raises(export, known, label, tmp_path):
    model = random_model(label, *SIGNATURES[known][1:-1])
    _, text, reason = UNSUPPORTED[BACKEND, export, known]
    assert reason
    with pytest.raises(Exception, match=f"(?s){text}"):
        written(model, export, known, tmp_path)(tokens_of(BATCH, TOKENS))


def test_every_layer_has_its_place_in_the_tables():
    for export in SUPPORTED[BACKEND]:
        listed = layer_outcomes(BACKEND, export)
        if export in SLOW:
            assert set(EACH_ROUTER) <= set(listed), export
        else:
            assert set(listed) == set(LAYERS), export


@pytest.mark.once
def test_readme_holds_the_tables():
    """`python -m tests.export_table` prints what belongs there."""
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    start, end = (f"<!-- --8<-- [{s}:backends] -->" for s in ("start", "end"))
    section = text.partition(start)[2].partition(end)[0]
    assert markdown() in section

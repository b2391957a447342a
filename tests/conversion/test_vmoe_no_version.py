"""Training states without a version: numbered as the Python object was."""

import pathlib

import numpy as np
import pytest

from conversion import convert
from conversion.__main__ import main
from conversion.errors import ConversionError
from conversion.formats import vmoe_msgpack
from keras_moe.models import MoEViTImageClassifier
from tests.conversion import writer
from tests.conversion.test_vmoe_goldens import load
from tests.conversion.test_vmoe_goldens import logits

pytestmark = pytest.mark.once

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
SAMPLE = GOLDEN / "ckpt" / "G_vmoe_soft_trainstate_sharded" / "ckpt_2"
FIELDS = ("step", "params", "opt_state", "rngs")
SMALL = {
    "step": np.int32(2),
    "params/b": np.arange(3, dtype="float32"),
    "params/w": np.arange(6, dtype="float32").reshape(2, 3),
}


@pytest.fixture(scope="module")
def sample():
    checkpoint = vmoe_msgpack.Checkpoint(SAMPLE)
    return {path: checkpoint.read(path) for path in checkpoint.shapes()}


def as_state(arrays):
    """Paths by the fields of a TrainState, and inside them by strings."""
    return sorted(
        arrays,
        key=lambda path: (FIELDS.index(path.split("/")[0]), path.split("/")),
    )


def write(folder, arrays, order=None):
    return writer.checkpoint(
        folder / "ckpt_2",
        arrays,
        shards=1,
        version=None,
        order=as_state(arrays) if order is None else order,
    )


def equal(prefix, arrays):
    checkpoint = vmoe_msgpack.Checkpoint(prefix)
    assert set(checkpoint.shapes()) == set(arrays)
    for path, array in arrays.items():
        np.testing.assert_array_equal(
            checkpoint.read(path), array, err_msg=path
        )


def test_state_of_the_reference(sample, tmp_path):
    prefix = write(tmp_path, sample)
    equal(prefix, sample)
    main(["vmoe", prefix, str(tmp_path / "out")])
    model = MoEViTImageClassifier.from_preset(str(tmp_path / "out"))
    _, images, wanted = load("F1_soft_gap_qknorm_learned")
    np.testing.assert_allclose(logits(model, images), wanted, atol=1e-4)


def test_averages_are_not_taken_for_parameters(sample, tmp_path):
    """By shapes alone they could be: both orders are count, P, count, P, …"""
    arrays = {
        path: array
        for path, array in sample.items()
        if path.startswith(("params/", "step"))
    }
    for path in list(arrays):
        if path != "step":
            average = path.replace("params/", "opt_state/0/ema/", 1)
            arrays[average] = arrays[path] + 1
    arrays["opt_state/0/count"] = np.int32(5)
    arrays["opt_state/1/count"] = np.int32(7)
    equal(write(tmp_path, arrays), arrays)


def test_tuples_go_by_position(tmp_path):
    arrays = dict(SMALL)
    order = list(SMALL)
    for position in range(12):
        path = f"opt_state/{position}/trace/w"
        arrays[path] = np.full((2, 3), position, "float32")
        order.append(path)
    equal(write(tmp_path, arrays, order), arrays)


def test_named_tuples_go_by_field(tmp_path):
    adafactor = {"count": (), "v_row": (2,), "v_col": (3,), "v": (2, 3)}
    arrays = dict(SMALL)
    for name, shape in adafactor.items():
        arrays[f"opt_state/0/{name}"] = np.ones(shape, "float32")
    equal(write(tmp_path, arrays, list(arrays)), arrays)


def test_names_of_parameters_go_by_string(tmp_path):
    arrays = {"step": np.int32(2)}
    for number in range(11):
        path = f"params/{number}/bias"
        arrays[path] = np.full((3,), number, "float32")
    equal(write(tmp_path, arrays), arrays)


@pytest.mark.parametrize("wrong", ["strings", "shapes", "dtypes"])
def test_order_that_does_not_fit_is_refused(wrong, sample, tmp_path):
    arrays, order = sample, None
    if wrong == "strings":
        order = sorted(arrays, key=lambda path: path.split("/"))
    else:
        arrays = dict(SMALL)
        second = (3, 2) if wrong == "shapes" else (2, 3)
        # No field of an optimiser known here, and not in the order saved.
        arrays["opt_state/0/z"] = np.ones((2, 3), "float32")
        arrays["opt_state/0/a"] = np.ones(
            second, "float32" if wrong == "shapes" else "int32"
        )
        order = list(arrays)
    prefix = write(tmp_path, arrays, order)
    with pytest.raises(ConversionError, match="no version.* is ambiguous"):
        convert.convert_vmoe(prefix, tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()

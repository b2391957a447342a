"""Checkpoints of two towers that are damaged, incomplete or of others."""

import numpy as np
import pytest

from conversion import convert
from conversion import vmoe
from conversion.errors import ConversionError
from tests.conversion import writer
from tests.conversion.test_vmoe_goldens import GOLDEN
from tests.conversion.test_vmoe_goldens import load

pytestmark = pytest.mark.once

PARAMETERS, _, _ = load("F5_two_tower_soft")
FILE = GOLDEN / "F5_two_tower_soft.npz"
TEXT = "txt/Encoder/"


def converted(tmp_path, arrays, verify=None, **options):
    said = []
    convert.convert_vmoe(
        writer.checkpoint(tmp_path / "in" / "ckpt", arrays),
        tmp_path / "out",
        vmoe.Options(**options),
        verify=verify,
        tolerance=1e-5,
        say=said.append,
    )
    return said


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({"b": None}, {}, ": b must have 0 axes"),
        ({"s": np.zeros(2, "float32")}, {}, ": s must have 0 axes"),
        (
            {"txt/Embed_0/embedding": None},
            {},
            "txt/: Embed_0/embedding must",
        ),
        (
            {f"{TEXT}posembed_input/pos_embedding": None},
            {},
            "txt/: the checkpoint has no Encoder/posembed_input/pos_embedd",
        ),
        (
            {f"{TEXT}encoder_norm/scale": None},
            {},
            f"missing .'{TEXT}encoder_norm/scale'., not used nothing",
        ),
        (
            {"txt/more/kernel": np.zeros(2, "float32")},
            {},
            "missing nothing, not used .'txt/more/kernel'.",
        ),
        (
            {f"{TEXT}encoderblock_1/Moe/Router/mu": np.zeros((2, 2, 2), "f4")},
            {},
            "text towers with experts are not converted",
        ),
        (
            {"img/pre_logits/kernel": np.zeros((2, 2), "float32")},
            {},
            "img/: pre_logits/kernel must not be there",
        ),
        (
            {"txt/head/kernel": np.zeros((16, 31), "float32")},
            {},
            "must have the same width; the checkpoint has 32 and 31",
        ),
        (
            {"txt/head/bias": np.full(32, np.nan, "float32")},
            {},
            "txt/head/bias of .*ckpt holds numbers",
        ),
        ({}, {"text_pooling": "map"}, "--text-pooling map does not agree"),
        (
            {"img/embedding/kernel": None},
            {},
            "img/: the checkpoint has no embedding/kernel, which every vision",
        ),
        ({}, {"text_pooling": "first"}, "^--text-pooling must be one of"),
    ],
)
def test_refused(tmp_path, changes, options, message):
    arrays = {**PARAMETERS, **changes}
    arrays = {path: x for path, x in arrays.items() if x is not None}
    with pytest.raises(ConversionError, match=message):
        converted(tmp_path, arrays, **options)
    assert not (tmp_path / "out").exists()


def test_text_pooling_is_of_two_towers(tmp_path):
    arrays, _, _ = load("F1_soft_gap_qknorm_learned")
    with pytest.raises(ConversionError, match="--text-pooling is of models of"):
        converted(tmp_path, arrays, text_pooling="last")


def test_verified_by_logits(tmp_path):
    said = converted(tmp_path, PARAMETERS, FILE, text_pooling="last")
    assert any("differ from logits_f32_dispatch by" in line for line in said)


def test_another_weight_is_seen(tmp_path):
    """Another text pooling, and arrays that are not those of the file."""
    with pytest.raises(ConversionError, match="logits differ from logits_f32"):
        converted(tmp_path, PARAMETERS, FILE, text_pooling="mean")
    changed = {**PARAMETERS, "txt/head/bias": np.zeros(32, "float32")}
    np.savez(tmp_path / "arrays.npz", **changed)
    with pytest.raises(
        ConversionError, match="text_projection/bias is not equal to txt/head"
    ):
        converted(tmp_path, PARAMETERS, tmp_path / "arrays.npz")
    assert not (tmp_path / "out").exists()

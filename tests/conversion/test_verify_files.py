"""Files of expected arrays for --verify that are none, or do not fit."""

import io

import numpy as np
import pytest

from conversion import verify
from conversion import vmoe_model
from conversion.__main__ import main
from conversion.errors import ConversionError
from tests.conversion import tiny

pytestmark = pytest.mark.once

IDS = np.zeros((1, 2), "int32")
LOGITS = np.zeros((1, 2, 11), "float32")


def packed(save, *args, **kwargs):
    stream = io.BytesIO()
    save(stream, *args, **kwargs)
    return stream.getvalue()


WHOLE = packed(np.savez, token_ids=IDS, logits=LOGITS)
NO_ARCHIVE = {
    "npy": packed(np.save, LOGITS),
    "pickled npy": packed(np.save, np.array([{}]), allow_pickle=True),
    "text": b"token_ids, logits\n1, 2\n",
    "empty": b"",
    "junk": b"PK\x03\x04" + bytes(range(256)),
    "cut": WHOLE[:-30],
    "folder": None,
}


@pytest.mark.parametrize("command", ["vmoe", "mot", "llm-random"])
@pytest.mark.parametrize("kind", NO_ARCHIVE)
def test_commands_refuse_what_is_no_archive(kind, command, tmp_path):
    """Before the checkpoint is read, which is none here."""
    path = tmp_path / "expected.npz"
    if NO_ARCHIVE[kind] is None:
        path.mkdir()
    else:
        path.write_bytes(NO_ARCHIVE[kind])
    out = tmp_path / "new" / "out"
    with pytest.raises(SystemExit, match=f"error: {path} is no .npz file") as e:
        main([command, str(tmp_path / "none"), str(out), "--verify", str(path)])
    assert "pickle" not in str(e.value)  # no advice to unpickle it after all
    assert not out.parent.exists()


def _spoilt(place):
    content = bytearray(WHOLE)
    content[place] ^= 1
    return bytes(content)


ARRAYS = {
    "objects": ({"token_ids": np.array([{}, 1])}, "Object arrays"),
    "texts": ({"logits": np.full((1, 2, 11), "a")}, "logits must hold numbers"),
    "complex": ({"logits": LOGITS * 1j}, "logits must hold numbers"),
    "empty logits": ({"logits": LOGITS[:0]}, "logits must be an array with"),
    "empty ids": ({"token_ids": IDS[:0]}, "token_ids must be an array of 2"),
    "ids of one axis": ({"token_ids": IDS[0]}, "token_ids must be an array of"),
    "real ids": ({"token_ids": IDS + 0.5}, "token_ids must hold numbers"),
    "large ids": ({"token_ids": IDS + 11}, "must lie from 0 to 10"),
    "negative ids": ({"token_ids": IDS - 1}, "must lie from 0 to 10"),
    "a mask of objects": (
        {"attention_mask": np.array([{}, 1]), "logits_masked": LOGITS},
        "Object arrays",
    ),
    "another mask": (
        {"attention_mask": IDS[:, :1], "logits_masked": LOGITS},
        "attention_mask must have the shape of token_ids",
    ),
    "NaN": ({"logits": LOGITS + np.nan}, "logits differ from logits by nan"),
    "another shape": ({"logits": LOGITS[..., 1:]}, "logits has the shape"),
    "no logits": ({"logits": None}, "lacks logits"),
}


class Model:
    """Gives zeros, as a model of language does."""

    vocabulary_size = 11

    def token_embedding(self, hidden, reverse):
        return hidden

    def __call__(self, inputs, training):
        return LOGITS


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_texts(kind, tmp_path):
    changes, match = ARRAYS[kind]
    arrays = {"token_ids": IDS, "logits": LOGITS, **changes}
    arrays = {k: v for k, v in arrays.items() if v is not None}
    path = tmp_path / "expected.npz"
    np.savez(path, **arrays, allow_pickle=True)
    with pytest.raises(ConversionError, match=match) as raised:
        verify.compare_texts(Model(), path, 1e-4)
    assert str(path) in str(raised.value)
    np.savez(path, token_ids=IDS, logits=LOGITS)
    assert "differ" in verify.compare_texts(Model(), path, 1e-4)


def test_a_damaged_array(tmp_path):
    path = tmp_path / "expected.npz"
    path.write_bytes(_spoilt(WHOLE.index(b"NUMPY") + 129))
    with pytest.raises(ConversionError, match=f"{path} is no .npz .*CRC"):
        verify.compare_texts(Model(), path, 1e-4)


IMAGES = np.zeros((1, 4, 4, 1), "float32")
OF_IMAGES = {
    "objects": ({"images": np.array([{}])}, "Object arrays"),
    "texts": ({"images": np.full((1, 4, 4, 1), "a")}, "must hold numbers"),
    "three axes": ({"images": IMAGES[0]}, "must be an array of 4 axes"),
    "none": ({"images": IMAGES[:0]}, "with numbers in it"),
    "another size": ({"images": IMAGES[:, 1:]}, "the images must be"),
    "empty logits": ({"logits": np.zeros((0, 3))}, "with numbers in it"),
    "arrays of objects": (
        {"images": None, "logits": None, "cls": np.array([{}])},
        "Object arrays",
    ),
    "arrays of texts": (
        {"images": None, "logits": None, "cls": np.array(["a"])},
        "cls must hold numbers",
    ),
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "image"
    tiny.preset("image").save_to_preset(folder)
    return folder


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_arrays_of_images(kind, preset, tmp_path):
    changes, match = OF_IMAGES[kind]
    arrays = {"images": IMAGES, "logits": np.zeros((1, 3)), **changes}
    arrays = {k: v for k, v in arrays.items() if v is not None}
    path = tmp_path / "expected.npz"
    np.savez(path, **arrays, allow_pickle=True)
    used = {"cls": "norm/gamma"}
    with pytest.raises(ConversionError, match=match) as raised:
        vmoe_model.compare(preset, path, 1e-4, used)
    assert str(path) in str(raised.value)

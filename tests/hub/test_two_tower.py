"""A model of two towers goes to the Hub and comes back."""

import numpy as np
import pytest

from keras_moe import models
from tests.models.two_tower.support import CAPTIONS
from tests.models.two_tower.support import make_model

pytestmark = pytest.mark.once


def test_round_trip(hub, tmp_path):
    model = make_model()
    model.save_to_preset(tmp_path / "tiny")
    files = {
        path.relative_to(tmp_path / "tiny").as_posix(): path.read_bytes()
        for path in (tmp_path / "tiny").rglob("*")
        if path.is_file()
    }
    hub.push("someone/tiny", files)
    loaded = models.MoETwoTower.from_preset("hf://someone/tiny")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(
        loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS)
    )
    del files["assets/tokenizer/vocabulary.txt"]
    hub.push("someone/tiny", files)
    with pytest.raises(ValueError, match="lacks its file .*vocabulary.txt"):
        models.MoETwoTower.from_preset("hf://someone/tiny")

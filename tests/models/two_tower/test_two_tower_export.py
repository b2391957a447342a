"""Both towers, exported, give the embeddings that they gave before."""

import keras
import numpy as np

from tests.exporting import exported
from tests.models.support import close
from tests.models.support import images_of
from tests.models.support import randomize
from tests.models.two_tower.support import LENGTH
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import make_text_tower
from tests.models.two_tower.support import run
from tests.models.two_tower.support import texts_of
from tests.support import BACKEND
from tests.support import run as run_arrays

EXPORT = "torch" if BACKEND == "torch" else "tf_saved_model"


def test_export(tmp_path):
    backbone = randomize(
        make_backbone(
            text_tower=make_text_tower("soft", activation="gelu"),
            text_pooling="last_token",
        )
    )
    images = images_of(2)
    for name in ("image", "text"):
        (tmp_path / name).mkdir()
    spec = keras.InputSpec(shape=(2, 12, 16, 3), dtype="float32")
    encoder = backbone.image_encoder
    found = exported(encoder, EXPORT, spec, tmp_path / "image")(images)
    wanted = run_arrays(lambda x: encoder(x, training=False), images)
    close(found, wanted)
    texts = texts_of([3, 4, 5, 2], [6, 2])
    spec = keras.InputSpec(shape=(2, LENGTH), dtype="int32")
    encoder = backbone.text_encoder
    specs = dict.fromkeys(texts, spec)
    found = exported(encoder, EXPORT, specs, tmp_path / "text")(texts)
    close(found, run(encoder, texts))
    assert np.abs(found[0] - found[1]).max() > 1e-3

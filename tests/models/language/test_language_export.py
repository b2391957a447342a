"""A small language model, exported, gives what it gave before."""

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.export_table import ANY
from tests.export_table import LANGUAGE
from tests.exporting import exported
from tests.models.language_support import enlarge
from tests.models.language_support import logits_of
from tests.models.language_support import make_backbone
from tests.support import BACKEND

HERE = [
    (export, mode, outcome)
    for (backend, export), row in LANGUAGE.items()
    for mode, outcome in row.items()
    if backend == BACKEND
]


@pytest.mark.parametrize("export, mode, outcome", HERE)
def test_export(export, mode, outcome, tmp_path):
    length, batch = 6, None if outcome == ANY else 2
    backbone = make_backbone(mode, num_layers=1)
    model = enlarge(models.MoTCausalLM(backbone))
    signature = {
        name: keras.InputSpec(shape=(batch, length), dtype=dtype, name=name)
        for name, dtype in (("token_ids", "int32"), ("padding_mask", "bool"))
    }
    if isinstance(outcome, tuple):
        text, reason = outcome
        assert reason
        with pytest.raises(Exception, match=f"(?s){text}"):
            exported(model, export, signature, tmp_path)
        return
    run = exported(model, export, signature, tmp_path)
    for rows in (2, batch or 3):
        ids = np.arange(rows * length, dtype="int32").reshape(rows, length)
        mask = np.ones(ids.shape, bool)
        mask[-1, 4:] = False
        expected = logits_of(model, ids, mask)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(
            run({"token_ids": ids, "padding_mask": mask}),
            expected,
            rtol=1e-4,
            atol=1e-4,
        )

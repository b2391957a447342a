"""A small language model, exported, gives what it gave before."""

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models.exporting import exported
from tests.models.language_support import enlarge
from tests.models.language_support import logits_of
from tests.models.language_support import make_backbone
from tests.support import BACKEND

MODES = ("group", "self", "argmax")
ANY = None
# (backend, format) -> the size of the batch that an export needs to know.
# Groups of texts on JAX, and all on PyTorch, need it.
EXPORTS = {
    ("jax", "tf_saved_model"): ANY,
    ("jax", "onnx"): 2,
    ("tensorflow", "tf_saved_model"): ANY,
    ("tensorflow", "onnx"): ANY,
    ("torch", "onnx"): 2,
    ("torch", "torch"): 2,
}
HERE = [case[1] for case in EXPORTS if case[0] == BACKEND]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("export", HERE)
def test_export(export, mode, tmp_path):
    length, batch = 6, EXPORTS[BACKEND, export]
    backbone = make_backbone(mode, num_layers=1)
    model = enlarge(models.MoTCausalLM(backbone))
    signature = {
        name: keras.InputSpec(shape=(batch, length), dtype=dtype, name=name)
        for name, dtype in (("token_ids", "int32"), ("padding_mask", "bool"))
    }
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

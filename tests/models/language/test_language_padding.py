"""A text reads, and goes on, the same wherever its padding stands."""

import keras
import numpy as np
import pytest

from keras_moe import models
from keras_moe.models.language.padding import attended
from keras_moe.models.language.padding import places_of
from tests.models import language_support as support

PLACES = {
    "right": [0, 1, 2, 3],
    "left": [3, 4, 5, 6],
    "inside": [0, 2, 5, 6],
    "around": [1, 2, 4, 5],
}


def numpy(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def test_places_count_tokens():
    mask = np.array(
        [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
    )
    assert numpy(places_of(mask)).tolist() == [
        [0, 1, 2, 3, 4],
        [0, 0, 0, 1, 2],
        [0, 1, 1, 2, 2],
        [0, 1, 2, 3, 4],
    ]
    assert numpy(attended(mask)).astype(int).tolist() == [
        [1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1],
        [1, 0, 1, 0, 1],
        [1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_prompt_goes_on_as_it_does_alone(positions):
    """One batch: without any padding before or inside it, and with it."""
    model = support.make_causal("argmax", positions=positions)
    bare = models.MoTCausalLM(model.backbone)
    bare.compile(sampler="greedy")
    prompt = np.random.default_rng(0).integers(1, 256, 4)
    rows = np.zeros((len(PLACES), support.LENGTH), "int32")
    mask = np.zeros_like(rows)
    for row, places in enumerate(PLACES.values()):
        rows[row, places], mask[row, places] = prompt, 1
    logits = support.logits_of(bare, rows, mask)
    written = numpy(
        bare.generate(
            {"token_ids": rows, "padding_mask": mask}, stop_token_ids=None
        )
    )
    alone = support.logits_of(bare, prompt[None].astype("int32"))[0]
    for row, places in enumerate(PLACES.values()):
        np.testing.assert_allclose(logits[row, places], alone, atol=1e-5)
        end = places[-1] + 1
        ids = written["token_ids"][row]
        assert (
            ids[end : end + 3].tolist() == written["token_ids"][0, 4:7].tolist()
        )
        shown = written["padding_mask"][row].astype(int)
        assert shown.tolist() == [*mask[row, :end], *[1] * (10 - end)]

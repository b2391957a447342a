"""`MoTMaskedLM`: KerasHub's own tests, training, files, what is refused."""

import keras
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase

from keras_moe import models
from tests.models.language_support import LENGTH
from tests.models.language_support import make_backbone

END, MASK = 256, 257
CERTAIN = {
    "mask_selection_rate": 1.0,
    "mask_selection_length": 4,
    "mask_token_rate": 1.0,
    "random_token_rate": 0.0,
}


def make_preprocessor(**options):
    return models.MoTMaskedLMPreprocessor(
        models.MoTTokenizer.byte_level("[MASK]"),
        **{"sequence_length": LENGTH, **CERTAIN, **options},
    )


def make_masked(mode="group", **options):
    backbone = make_backbone(mode, causal=False, **options)
    return models.MoTMaskedLM(backbone, make_preprocessor())


class KerasHubTest(TestCase):
    def test_task(self):
        self.run_task_test(
            cls=models.MoTMaskedLM,
            init_kwargs={
                "backbone": make_backbone(causal=False, num_layers=1),
                "preprocessor": make_preprocessor(),
            },
            train_data=(["abcd", "efgh"],),
            expected_output_shape=(2, 4, 258),
        )

    @pytest.mark.once
    def test_preprocessor(self):
        self.init_kwargs = {
            "tokenizer": models.MoTTokenizer.byte_level("[MASK]"),
            "sequence_length": 6,
            **CERTAIN,
        }
        self.run_preprocessor_test(
            cls=models.MoTMaskedLMPreprocessor,
            init_kwargs=self.init_kwargs,
            input_data=["abcd", "xy"],
            expected_output=(
                {
                    "token_ids": [
                        [END, MASK, MASK, MASK, MASK, END],
                        [END, MASK, MASK, END, END, END],
                    ],
                    "padding_mask": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]],
                    "mask_positions": [[1, 2, 3, 4], [1, 2, 0, 0]],
                },
                [[97, 98, 99, 100], [120, 121, 0, 0]],
                [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]],
            ),
        )


def test_training_and_round_trip(tmp_path):
    """It learns which text is meant; its files give it back, head and all."""
    model = make_masked("self")
    model.compile(keras.optimizers.Adam(0.03))
    texts = ["abcd", "xy"]
    losses = model.fit(texts, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    expected = model.predict(texts, verbose=0)
    model.save_to_preset(tmp_path / "preset")
    again = models.MoTMaskedLM.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(again.predict(texts, verbose=0), expected, 1e-5)
    # Alone, as no row meets another.
    alone = again.predict(texts[:1], verbose=0)
    np.testing.assert_allclose(alone[0], expected[0], 1e-4, 1e-5)
    again.inference_mixing = "group"
    mixed = again.predict(texts, verbose=0)
    assert np.abs(mixed - expected).max() > 1e-4
    (tmp_path / "preset" / "task.weights.h5").unlink()
    (tmp_path / "preset" / "keras_moe.json").unlink()
    with pytest.raises(ValueError, match="lacks its file task.weights.h5"):
        models.MoTMaskedLM.from_preset(tmp_path / "preset")


def test_some_tokens_are_drawn():
    preprocessor = make_preprocessor(
        sequence_length=400,
        mask_selection_rate=0.5,
        mask_selection_length=400,
        mask_token_rate=0.5,
        random_token_rate=0.25,
    )
    text = "a" * 300
    x, y, weight = preprocessor([text])
    ids, places, y, weight = (
        np.asarray(part)[0]
        for part in (x["token_ids"], x["mask_positions"], y, weight)
    )
    places = places[weight > 0]
    assert 100 < len(places) < 200 and places.min() > 0 and places.max() < 301
    assert (y[weight > 0] == ord("a")).all()
    share = (ids[places] == MASK).mean(), (ids[places] == ord("a")).mean()
    np.testing.assert_allclose(share, (0.5, 0.25), atol=0.17)
    left = np.setdiff1d(np.arange(1, 301), places)
    assert (ids[left] == ord("a")).all()


def test_a_causal_backbone_is_refused():
    with pytest.raises(ValueError, match="^backbone must have causal=False"):
        models.MoTMaskedLM(make_backbone())
    with pytest.raises(ValueError, match="^backbone must have causal=True"):
        models.MoTCausalLM(make_backbone(causal=False))

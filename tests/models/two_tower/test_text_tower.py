"""`TextTransformerBackbone`: routers, masks, positions."""

import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase

from keras_moe.models import TextTransformerBackbone
from tests.models.support import close
from tests.models.support import randomize
from tests.models.two_tower.support import ROUTERS
from tests.models.two_tower.support import TEXT
from tests.models.two_tower.support import make_text_tower
from tests.models.two_tower.support import run
from tests.models.two_tower.support import texts_of


class KerasHubTest(TestCase):
    @pytest.mark.once
    def test_backbone(self):
        self.run_backbone_test(
            cls=TextTransformerBackbone,
            init_kwargs={**TEXT, **ROUTERS["soft"]},
            input_data=texts_of([3, 4, 5, 2], [6, 2]),
            expected_output_shape=(2, 6, 8),
            run_mixed_precision_check=False,
            run_quantization_check=False,
        )


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("masked", [True, False])
def test_padding(router, masked):
    """What stands at padding is not read, but where the tower shall read it."""
    if not masked and router != "dense":
        router = "soft"
    tower = randomize(make_text_tower(router, mask_padding=masked))
    inputs = texts_of([3, 4, 5, 2], [6, 2])
    before = run(tower, inputs)
    inputs["token_ids"][1, 2:] = 7
    after = run(tower, inputs)
    assert after.shape == (2, 6, 8)
    close(after[0], before[0], 1e-6)
    change = np.abs(after - before)[1, :2].max()
    assert change < 1e-6 if masked else change > 1e-4
    assert tower.moe_layers == (() if router == "dense" else (1,))


def test_tokens_read_in_both_directions_and_know_their_places():
    tower = randomize(make_text_tower())
    first = run(tower, texts_of([3, 4, 5]))
    other = run(tower, texts_of([3, 4, 6]))
    assert np.abs(first - other)[0, 0].max() > 1e-4
    swapped = run(tower, texts_of([4, 3, 5]))
    assert np.abs(first[0, [1, 0]] - swapped[0, :2]).max() > 1e-3


def test_config_keeps_every_argument():
    arguments = {
        **ROUTERS["token_choice"],
        "moe_layers": (0,),
        "qk_norm": True,
        "mask_padding": False,
        "activation": "relu",
        "dropout": 0.1,
        "attention_dropout": 0.2,
        "layer_norm_epsilon": 1e-5,
    }
    tower = TextTransformerBackbone(**TEXT, **arguments)
    config = tower.get_config()
    assert {n: config[n] for n in (*TEXT, *arguments)} == {**TEXT, **arguments}
    again = TextTransformerBackbone.from_config(config)
    assert again.get_config() == config


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"num_layers": 0}, "num_layers must be an integer of at least 1"),
        ({"num_heads": 3}, "num_heads must divide hidden_dim, 8; received 3"),
        ({"router": "hard"}, "router must be one of 'soft', 'expert_choice'"),
        ({"moe_layers": [0]}, "moe_layers must be left out where router=None"),
        (
            {**ROUTERS["soft"], "moe_layers": [2]},
            "moe_layers must be different indices below num_layers, 2",
        ),
        ({"router_options": {"a": 1}}, "router_options must be left out"),
        (
            {"router": "soft", "router_options": {"experts": 1}},
            "router_options must be arguments of 'soft', SoftMoE",
        ),
        ({"mask_padding": 1}, "mask_padding must be True or False"),
        ({"dropout": 1.0}, "dropout must be a number from 0 up to"),
        ({"positions": "none"}, "TextTransformerBackbone has no argument pos"),
    ],
)
def test_arguments_that_do_not_fit(arguments, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        TextTransformerBackbone(**{**TEXT, **arguments})


@pytest.mark.once
def test_more_tokens_than_positions():
    tower = make_text_tower()
    with pytest.raises(ValueError, match="at most max_sequence_length tokens"):
        tower(texts_of([3, 4], length=7))

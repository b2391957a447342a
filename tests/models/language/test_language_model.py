"""What holds for language models whatever their weights."""

import functools

import keras
import numpy as np
import pytest

from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from tests.conversion import texts

MODES = ("group", "self", "argmax")


def make(mode="group", **options):
    keras.utils.set_random_seed(0)
    return MoTBackbone(
        **{
            "vocabulary_size": 20,
            "num_layers": 2,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 16,
            "max_sequence_length": 10,
            "router_options": {
                "num_experts": 4,
                "group_size": 2,
                "inference_mixing": mode,
            },
            **options,
        }
    )


def draw(rows=4, length=8, seed=0):
    return np.random.default_rng(seed).integers(1, 20, (rows, length))


@pytest.mark.parametrize("mode", MODES)
def test_later_tokens_change_no_earlier_logit(mode):
    backbone, ids = make(mode), draw()
    changed = ids.copy()
    changed[:, 5:] = draw(seed=1)[:, 5:]
    logits = functools.partial(texts.logits, backbone)
    before, after = logits(ids), logits(changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_batch_mates_matter_in_group_mode_only(mode):
    backbone, ids = make(mode), draw()
    others = ids.copy()
    others[1:] = draw(seed=1)[1:]
    logits = functools.partial(texts.logits, backbone)
    change = np.abs(logits(ids) - logits(others))[0].max()
    assert (change > 1e-4) == (mode == "group")
    change = np.abs(logits(ids)[0] - logits(ids[:1])[0]).max()
    assert (change > 1e-4) == (mode == "group")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "rotary", "norm": "rms_norm", "tie_embeddings": False},
        {"norm_placement": "post", "head_dim": 4, "final_norm": False},
        {"router": None, "router_options": None},
    ],
)
def test_cached_is_uncached(options):
    """Greedy continuation, token by token, with and without a cache."""
    backbone = make(**options)
    model = MoTCausalLM(backbone)
    model.compile(sampler="greedy")
    prompt = draw(length=3)
    ids = np.pad(prompt, ((0, 0), (0, 4)))
    found = model.generate(
        {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")},
        stop_token_ids=None,
    )
    logits = functools.partial(texts.logits, backbone)
    for length in range(3, 7):
        # What stands to the right is hidden: the model is causal.
        ids[:, length] = logits(ids)[:, length - 1].argmax(-1)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found["token_ids"]), ids
    )


def test_fit_and_preset_round_trip(tmp_path):
    model = MoTCausalLM(make())
    ids = draw(length=9)
    inputs = {
        "token_ids": ids[:, :-1],
        "padding_mask": np.ones_like(ids[:, :-1]),
    }
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses = [model.train_on_batch(inputs, ids[:, 1:]) for _ in range(4)]
    assert losses[-1] < losses[0]
    model.save_to_preset(tmp_path / "preset")
    again = MoTCausalLM.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(
        texts.logits(model.backbone, ids[:, :-1]),
        texts.logits(again.backbone, ids[:, :-1]),
        atol=1e-6,
    )


def test_wrong_arguments():
    for name in ("positions", "norm", "norm_placement", "router"):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            make(**{name: "best"})

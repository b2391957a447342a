"""`MoTCausalLM` with texts: KerasHub's own tests, generation, fine-tuning."""

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase

from keras_moe import models
from keras_moe.models import MoTCausalLM
from tests.models.language_support import LENGTH
from tests.models.language_support import TEXTS
from tests.models.language_support import logits_of
from tests.models.language_support import make_backbone
from tests.models.language_support import make_causal
from tests.models.language_support import make_preprocessor
from tests.support import numpy

SAMPLERS = ("greedy", "top_k", "top_p", "random", "beam", "contrastive")


@pytest.fixture(scope="module")
def model():
    return make_causal("argmax")


class KerasHubTest(TestCase):
    def test_backbone(self):
        options = {"num_experts": 2, "group_size": 2}
        self.run_backbone_test(
            cls=models.MoTBackbone,
            init_kwargs={
                "vocabulary_size": 9,
                "num_layers": 1,
                "num_heads": 2,
                "hidden_dim": 4,
                "mlp_dim": 4,
                "max_sequence_length": 5,
                "router_options": options,
            },
            input_data={
                "token_ids": np.ones((2, 5), "int32"),
                "padding_mask": np.ones((2, 5), "int32"),
            },
            expected_output_shape=(2, 5, 4),
            # The check wants weights in half precision too. Routers keep
            # theirs in float32; see `test_low_precision`.
            run_mixed_precision_check=False,
        )

    def test_task(self):
        self.run_task_test(
            cls=MoTCausalLM,
            init_kwargs={
                "backbone": make_backbone(num_layers=1),
                "preprocessor": make_preprocessor(),
            },
            train_data=(["to be, or not to be", "that"],),
            expected_output_shape=(2, LENGTH, 258),
        )

    @pytest.mark.once
    def test_preprocessor(self):
        self.init_kwargs = {
            "tokenizer": models.MoTTokenizer.byte_level(),
            "sequence_length": 5,
        }
        self.run_preprocessor_test(
            cls=models.MoTCausalLMPreprocessor,
            init_kwargs=self.init_kwargs,
            input_data=["ab", "abcdef"],
            expected_output=(
                {
                    "token_ids": [
                        [256, 97, 98, 256, 256],
                        [256, 97, 98, 99, 100],
                    ],
                    "padding_mask": [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
                },
                [[97, 98, 256, 256, 256], [97, 98, 99, 100, 256]],
                [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
            ),
        )


# === Generation ===


def test_texts_in_texts_out(model):
    texts = model.generate(TEXTS)
    assert [type(text) for text in texts] == [str] * 3
    for text, prompt in zip(texts, TEXTS):
        assert text.startswith(prompt[: LENGTH - 1])
    stripped = model.generate(TEXTS, strip_prompt=True)
    assert [TEXTS[n] + stripped[n] for n in (1, 2)] == texts[1:]
    # Alone, and as a string.
    for text, prompt in zip(texts, TEXTS):
        assert model.generate(prompt) == text
    # The start token is one of the four; a byte gives one character or none.
    assert len(model.generate(TEXTS[1], max_length=4)) <= 3


def test_prompts_are_checked(model):
    ids = np.ones((1, LENGTH + 1), "int32")
    with pytest.raises(ValueError, match=f"at most max_seq.*{LENGTH}; rec.*11"):
        model.generate("to be", max_length=LENGTH + 1)
    for value in (0, -1, 2.5):
        with pytest.raises(ValueError, match="^max_length must be an integer"):
            model.generate("to be", max_length=value)
    bare = MoTCausalLM(model.backbone)
    for given, mask, text in [
        ("to be", None, "^inputs must be a dictionary"),
        (ids, ids, "^max_length, or the length of token_ids, must be at most"),
        (ids[:, :3], ids, "must have one shape .*\\(1, 3\\) and \\(1, 11\\)"),
        (258 * ids[:, :3], ids[:, :3], "^token_ids must be from 0.*258"),
        (-ids[:, :3], ids[:, :3], "^token_ids must be from 0.*-1"),
        (ids[:, :3], 0 * ids[:, :3], "one token in each prompt.*prompt 0"),
    ]:
        if mask is not None:
            given = {"token_ids": given, "padding_mask": mask}
        with pytest.raises(ValueError, match=text):
            bare.generate(given, stop_token_ids=None)
    without_start = make_preprocessor(add_start_token=False)
    with pytest.raises(ValueError, match="add_start_token=True"):
        MoTCausalLM(model.backbone, without_start).generate(["a", ""])


@pytest.mark.parametrize("mode", ["self", "argmax"])
def test_rows_do_not_meet_in_independent_modes(mode):
    """Neither another's tokens nor its length nor its padding matter."""
    model = MoTCausalLM(make_causal(mode).backbone)
    model.compile(sampler="greedy")
    rows = np.random.default_rng(0).integers(0, 256, (3, LENGTH))
    mask = np.ones_like(rows)
    mask[0, 2:] = mask[1, 6:] = mask[2, 7:] = 0  # padding on the right
    mask[2, :3] = 0  # and on the left

    def generate(*those):
        inputs = {"token_ids": rows[[*those]], "padding_mask": mask[[*those]]}
        return numpy(model.generate(inputs, stop_token_ids=None))

    together = generate(0, 1, 2)
    alone = [generate(n) for n in range(3)]
    for n in range(3):
        for key in ("token_ids", "padding_mask"):
            np.testing.assert_array_equal(together[key][n], alone[n][key][0])
        kept = mask[n].astype(bool)
        np.testing.assert_array_equal(
            together["token_ids"][n, kept], rows[n, kept]
        )
    np.testing.assert_array_equal(together["token_ids"][2, :3], rows[2, :3])
    assert together["padding_mask"].sum(1).tolist() == [10, 10, 7]
    # Logits, before anything is generated.
    logits = logits_of(model, rows, mask)
    cut = logits_of(model, rows[1:2, :6])
    np.testing.assert_allclose(logits[1, :6], cut[0], atol=2e-5)
    others = np.flip(rows, 0).copy()
    others[1] = rows[1]
    swapped = logits_of(model, others, mask[::-1].copy() | mask)
    np.testing.assert_allclose(swapped[1, :6], cut[0], atol=2e-5)


def test_padding_on_the_left_is_not_attended_to(model):
    rows = np.random.default_rng(0).integers(0, 256, (2, LENGTH))
    rows[1, 3:] = rows[0, 3:]
    mask = np.ones_like(rows)
    mask[:, :3] = mask[:, 6:] = 0
    bare = MoTCausalLM(model.backbone)
    bare.compile(sampler="greedy")
    inputs = {"token_ids": rows, "padding_mask": mask}
    ids = numpy(bare.generate(inputs, stop_token_ids=None))["token_ids"]
    np.testing.assert_array_equal(ids[0, 3:], ids[1, 3:])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler):
    model = make_causal("group", num_layers=1)
    model.compile(sampler=sampler)
    prompts = ["a", "bcd"]
    texts = model.generate(prompts, max_length=6, stop_token_ids=None)
    for text, prompt in zip(texts, prompts):
        assert text.startswith(prompt)


def test_every_sampler_is_tested(model):
    names = {name for name in dir(keras_hub.samplers) if "Sampler" in name}
    classes = {type(keras_hub.samplers.get(name)).__name__ for name in SAMPLERS}
    # The speculative one wants a second model, which `generate` has no way
    # to give it.
    assert names - classes == {"Sampler", "SpeculativeSampler"}
    other = MoTCausalLM(model.backbone, model.preprocessor)
    other.compile(sampler="speculative", run_eagerly=True)
    with pytest.raises(ValueError, match="requires a `draft_next`"):
        other.generate("a")


def test_stop_tokens_end_a_text(model):
    """Also where prompts are padded with the stop token."""
    bare = MoTCausalLM(model.backbone)
    bare.compile(sampler="greedy")
    mask = np.zeros((2, LENGTH), "int32")
    mask[0, :2] = mask[1, :4] = 1
    ids = np.arange(2 * LENGTH).reshape(2, LENGTH)

    def generate(stop):
        inputs = {"token_ids": ids, "padding_mask": mask}
        return numpy(bare.generate(inputs, stop_token_ids=stop))

    whole = generate(None)
    stop = int(whole["token_ids"][0, 5])
    ids = np.where(mask, ids, stop)
    found = generate((stop,))
    for row, start in enumerate((2, 4)):
        text = whole["token_ids"][row].tolist()
        end = text.index(stop, start) + 1 if stop in text[start:] else LENGTH
        assert found["padding_mask"][row].sum() == end
        assert found["token_ids"][row, :end].tolist() == text[:end]
        assert (found["token_ids"][row, end:] == stop).all()


# === Training and files ===


def test_fine_tuning_round_trip(tmp_path):
    """LoRA and the rest train on texts; all files give the model back."""
    model = make_causal("self")
    model.compile(keras.optimizers.Adam(0.02), sampler="greedy")
    model.backbone.enable_lora(2)
    names = {w.path.split("/")[-2] for w in model.trainable_weights}
    assert {"query", "value"} <= names
    assert sum("lora" in w.name for w in model.trainable_weights) == 8
    texts = ["to be, or", "not to be"]
    losses = model.fit(texts, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    expected = model.generate(TEXTS)
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for again in (
        keras.saving.load_model(tmp_path / "model.keras"),
        MoTCausalLM.from_preset(tmp_path / "preset"),
        keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset")),
    ):
        assert type(again) is MoTCausalLM
        assert again.inference_mixing == "self"
        config = model.preprocessor.get_config()
        assert again.preprocessor.get_config() == config
        again.compile(sampler="greedy")
    assert again.generate(TEXTS) == expected


def test_preset_without_a_preprocessor(tmp_path, model):
    model.backbone.save_to_preset(tmp_path / "preset")
    model.preprocessor.tokenizer.save_to_preset(str(tmp_path / "preset"))
    again = MoTCausalLM.from_preset(tmp_path / "preset")
    assert again.preprocessor.sequence_length == LENGTH


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "int8"])
def test_low_precision(policy, quick_quantization):
    model = make_causal("group")
    ids = np.arange(2 * LENGTH).reshape(2, LENGTH)
    before = logits_of(model, ids)
    if policy == "int8":
        model.quantize("int8")
        # Query, key, value, out, up and down of two blocks.
        assert sum(w.dtype == "int8" for w in model.weights) == 12
    else:
        low = make_causal("group", dtype=policy)
        low.set_weights(model.get_weights())
        model = low
    after = logits_of(model, ids)
    scale = np.abs(before).mean()
    assert 0 < np.abs(np.asarray(after, "float32") - before).mean() < scale / 5
    assert model.generate("to").startswith("to")

"""`MoTTokenizer`: GPT-2's byte pairs, plain bytes, special tokens, presets."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from keras_hub.src.tests.test_case import TestCase

from keras_moe.models import MoTBackbone
from keras_moe.models import MoTTokenizer

pytestmark = pytest.mark.once

END = "<|endoftext|>"
MERGES = ["1 2", "12 3", "123 4", "( h", "h e", "Ġ he", "Ġ Ġ", "! !", "Ċ Ċ"]
TEXTS = [
    "Once upon a time\n\n\tthere   was  é ñ 😀 𝔘 漢字 \r\n ",
    "",
    "  two, and '' (three)!!  ",
    "12345 (he he) a\u00a0b\u3000 \x00\x7f ६",
]


def byte_pairs(**options):
    """Every byte, the merges, and the special token."""
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    symbols += [merge.replace(" ", "") for merge in MERGES] + [END]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    return MoTTokenizer(vocabulary, MERGES, **options)


def listed(ids):
    return [np.asarray(row).tolist() for row in ids]


def test_bytes_are_their_own_ids():
    tokenizer = MoTTokenizer.byte_level()
    assert listed(tokenizer(TEXTS)) == [list(t.encode()) for t in TEXTS]
    assert tokenizer.detokenize(tokenizer(TEXTS)) == TEXTS
    for text in TEXTS:
        assert tokenizer.detokenize(tokenizer(text)) == text
    every_byte = list(range(256))
    decoded = tokenizer.detokenize([every_byte])[0]
    assert decoded == bytes(every_byte).decode(errors="replace")


def test_words_are_cut_as_gpt2_cuts_them():
    tokenizer = byte_pairs()
    oracle = tokenizers.ByteLevelBPETokenizer(
        tokenizer.vocabulary, [tuple(m.split()) for m in MERGES]
    )
    assert listed(tokenizer(TEXTS)) == [oracle.encode(t).ids for t in TEXTS]
    assert tokenizer.detokenize(tokenizer(TEXTS)) == TEXTS
    # Llama 3's rule would cut 123|45, and keep the bracket with its word.
    tokens = byte_pairs(dtype="string")("12345 (he")
    assert tokens == ["1234", "5", "Ġ", "(", "he"]


@pytest.mark.parametrize("mask_token", [None, "[MASK]"])
def test_special_tokens(mask_token):
    tokenizer = MoTTokenizer.byte_level(mask_token)
    assert tokenizer.start_token_id == tokenizer.end_token_id == 256
    assert tokenizer.pad_token_id == 256
    assert tokenizer.vocabulary_size() == 257 + (mask_token is not None)
    assert tokenizer.mask_token_id == (257 if mask_token else None)
    assert listed([tokenizer(f"a{END}b")]) == [[97, 256, 98]]
    length = 1 if mask_token else len("[MASK]")
    assert len(tokenizer("[MASK]")) == length


def test_wrong_arguments():
    text = "Cannot find special token `'<|endoftext|>'`"
    with pytest.raises(ValueError, match=text.replace("|", r"\|")):
        MoTTokenizer({"a": 0}, [])
    for value in ("", 3, END):
        with pytest.raises(ValueError, match="^mask_token must be .*received"):
            MoTTokenizer.byte_level(value)
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        MoTTokenizer({"a": 0, END: 1}, ["a b"])


@pytest.mark.parametrize("made", [byte_pairs, MoTTokenizer.byte_level])
def test_preset_round_trip(made, tmp_path):
    tokenizer = made()
    MoTBackbone(
        300, 1, 1, 8, 8, max_sequence_length=4, router=None
    ).save_to_preset(tmp_path / "preset")
    tokenizer.save_to_preset(str(tmp_path / "preset"))
    for cls in (MoTTokenizer, keras_hub.tokenizers.Tokenizer):
        again = cls.from_preset(str(tmp_path / "preset"))
        assert isinstance(again, MoTTokenizer)
        assert again.get_config() == tokenizer.get_config()
        assert again.vocabulary == tokenizer.vocabulary
        assert listed(again(TEXTS)) == listed(tokenizer(TEXTS))


def test_bytes_in_tf_data():
    """A path of its own, which loses nothing."""
    tokenizer = MoTTokenizer.byte_level("[MASK]")
    texts = [*TEXTS, f"a{END}b[MASK]"]
    expected = listed(tokenizer(texts))
    assert expected[-1] == [97, 256, 98, 257]
    whole = tf.data.Dataset.from_tensors(texts).map(tokenizer)
    assert whole.get_single_element().to_list() == expected
    single = tf.data.Dataset.from_tensor_slices(texts).map(tokenizer)
    assert [ids.numpy().tolist() for ids in single] == expected


class KerasHubTest(TestCase):
    def test_layer(self):
        tokenizer = byte_pairs()
        texts = [text.strip() for text in TEXTS[:3]]
        self.run_preprocessing_layer_test(
            cls=MoTTokenizer,
            init_kwargs={
                "vocabulary": tokenizer.vocabulary,
                "merges": MERGES,
            },
            input_data=texts,
            expected_output=listed(tokenizer(texts)),
        )

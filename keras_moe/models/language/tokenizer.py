"""Text to token ids and back: byte pairs as GPT-2 has them, or plain bytes."""

import pathlib
import re
import sys

import keras
import keras_hub
from tokenizers import pre_tokenizers

from keras_moe import checks
from keras_moe import files
from keras_moe.models import task_inputs
from keras_moe.models.checkpoints import tokenizer_files
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.presets import loading

END = "<|endoftext|>"
# The first line of a file of merges. KerasHub skips it, and its TensorFlow
# path cannot do without any line.
MERGES_HEADER = "#version: 0.2"


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTTokenizer(loading.PartPresets, keras_hub.tokenizers.BytePairTokenizer):
    """Splits a text into byte pairs that are merged as GPT-2 merges them.

    The text is cut into words by GPT-2's rule, a word into the bytes of its
    UTF-8, and bytes are merged by the ranks of `merges`. No text is out of
    vocabulary if all 256 bytes are in it, and `detokenize` gives the text
    back. `<|endoftext|>` starts a text, ends it, and pads it: which tokens
    are padding is said by the padding mask alone.

    Ids do not depend on the other texts of a batch. Inside `tf.data`, KerasHub
    cuts words with TensorFlow's regular expressions, which lose a space beside
    U+00A0, U+3000 and their like, and merge no spaces at the end of a text;
    elsewhere, and everywhere without merges, ids are GPT-2's and every text
    comes back whole.

    Args:
        vocabulary: dictionary from token to id, or the path of a JSON file.
            It has `<|endoftext|>`.
        merges: list of merge rules such as `"t h"`, best first, or the path
            of a text file with one rule in each line.
        mask_token: `None`, or the token such as `"[MASK]"` that stands for a
            hidden one in masked language models; it is in the vocabulary.
        **kwargs: further arguments of `keras_hub.tokenizers.BytePairTokenizer`,
            such as `sequence_length`.

    Inputs: a string or a list of strings. Output: int32 ids, (tokens,) of a
    string, a list of lists of a list of strings.

    Raises:
        ValueError: where a special token is not in the vocabulary, or a merge
            rule has parts that are not.

    Example:

    >>> from keras_moe.models import MoTTokenizer
    >>> tokenizer = MoTTokenizer.byte_level()
    >>> tokenizer(["two\\n", "é"])
    [[116, 119, 111, 10], [195, 169]]
    >>> tokenizer.detokenize([[116, 119, 111], [195, 169]])
    ['two', 'é']
    >>> tokenizer.vocabulary_size(), tokenizer.end_token_id
    (257, 256)
    """

    backbone_cls = MoTBackbone

    def __init__(
        self,
        vocabulary: dict | str | None = None,
        merges: list | str | None = None,
        mask_token: str | None = None,
        **kwargs,
    ):
        for name in ("start_token", "end_token", "pad_token"):
            self._add_special_token(END, name)
        self.mask_token = self.mask_token_id = None
        if mask_token is not None:
            if not isinstance(mask_token, str) or mask_token in ("", END):
                raise ValueError(
                    "mask_token must be a string such as '[MASK]', other than "
                    f"'{END}', or None; {checks.received(mask_token)}."
                )
            self._add_special_token(mask_token, "mask_token")
        # In this order, where KerasHub's is by chance.
        specials = [END] if mask_token is None else [END, mask_token]
        tokens = kwargs.setdefault("unsplittable_tokens", specials)
        if not all(isinstance(token, str) for token in tokens or ()):
            raise ValueError(
                "unsplittable_tokens must be None or a list of strings; "
                f"received {tokens!r}."
            )
        self._specials = tuple(specials)
        super().__init__(vocabulary=vocabulary, merges=merges, **kwargs)
        self.built = True  # or Keras would not quantise a model that has it

    @classmethod
    def byte_level(cls, mask_token: str | None = None, **kwargs):
        """A tokenizer whose tokens are bytes: id = value, and no merges.

        Args:
            mask_token: as in the class. Its id is 257.
            **kwargs: further arguments of the class.

        Returns:
            A tokenizer of ids 0…255 for the bytes of UTF-8 and 256 for
            `<|endoftext|>`.
        """
        symbols = [*_byte_symbols(), END]
        if mask_token is not None:
            symbols.append(mask_token)
        vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
        return cls(vocabulary, [MERGES_HEADER], mask_token, **kwargs)

    def set_vocabulary_and_merges(self, vocabulary, merges):
        """Set the vocabulary and merge rules from data or files."""
        if merges is not None and not isinstance(merges, str):
            merges = list(merges) or [MERGES_HEADER]
        super().set_vocabulary_and_merges(vocabulary, merges)
        if self._tokenizer is not None:
            # KerasHub cuts words by Llama 3's rule there, which cuts numbers
            # after three digits, for one, and so gives other ids than GPT-2.
            self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
                add_prefix_space=self.add_prefix_space, use_regex=True
            )

    def load_assets(self, dir_path):
        """Read the vocabulary and the merge rules of a folder.

        Raises:
            UnreadableFile: for a file that is damaged.
            ValueError: for merge rules or special tokens whose tokens the
                vocabulary lacks.
        """
        vocabulary, merges = (
            pathlib.Path(dir_path) / name for name in self.file_assets
        )
        ids = files.read_json(vocabulary)
        tokenizer_files.check_ids(vocabulary, ids)
        with files.decoding(merges, "readable UTF-8 text"):
            rules = [x.rstrip() for x in merges.read_text("utf-8").split("\n")]
        if rules and not rules[-1]:
            rules.pop()
        of_tokens = [rule for rule in rules if "#version:" not in rule]
        tokenizer_files.check_rules(merges, of_tokens, vocabulary, ids)
        self.set_vocabulary_and_merges(ids, rules)

    def tokenize(self, inputs):
        """The ids of a string or of a list of strings."""
        if isinstance(inputs, (str, list, tuple)):
            # KerasHub names neither the place nor the argument.
            if not isinstance(inputs, str) and len(inputs):
                task_inputs.check_texts("inputs", inputs, one=True)
        else:
            task_inputs.check_texts("inputs", inputs, one=True)
        in_bytes = not self.sequence_length and not self.add_prefix_space
        if in_bytes and self.merges == [MERGES_HEADER]:
            tf = sys.modules.get("tensorflow")  # imported where it is traced
            if tf is not None and not tf.executing_eagerly():
                return self._trace_bytes(tf, inputs)
        return super().tokenize(inputs)

    def detokenize(self, inputs):
        """The text of ids, or the texts of lists of ids.

        Ids that the vocabulary does not have are left out.
        """
        if self._use_tf_workflow():
            return super().detokenize(inputs)
        return super().detokenize(task_inputs.token_ids("inputs", inputs))

    def _trace_bytes(self, tf, texts):
        """Ids of texts whose bytes no rule merges, in a graph of TensorFlow.

        KerasHub's merging is long to trace there, and loses some spaces.
        """
        ids = [self.vocabulary.get(symbol, -1) for symbol in _byte_symbols()]
        # Bytes that UTF-8 does not have stand for the special tokens.
        for free, token in zip((255, 254), self._specials):
            ids[free] = self.vocabulary[token]
            texts = tf.strings.regex_replace(
                texts, re.escape(token), bytes([free])
            )
        split = tf.strings.bytes_split(texts)  # ragged (texts,bytes)
        values = split.flat_values if texts.shape.rank else split
        values = tf.reshape(tf.io.decode_raw(values, tf.uint8), [-1])
        values = tf.gather(
            tf.constant(ids, self.compute_dtype), tf.cast(values, "int32")
        )
        return split.with_flat_values(values) if texts.shape.rank else values

    def get_config(self):
        return {**super().get_config(), "mask_token": self.mask_token}


def beginning(tokenizer, texts, tokens: int):
    """Texts cut where they surely have their first `tokens` tokens.

    A token has at most as many characters as the longest of the vocabulary,
    and a word that ends before white space is split as if nothing followed.

    Args:
        tokenizer: of KerasHub. Texts for others than `MoTTokenizer` pass.
        texts: a string, or a list of strings; anything else passes.
        tokens: how many are read.
    """
    if not isinstance(tokenizer, MoTTokenizer) or not tokenizer.vocabulary:
        return texts
    if isinstance(texts, (list, tuple)):
        return [beginning(tokenizer, text, tokens) for text in texts]
    # Special tokens, which may have white space, are in the vocabulary too.
    if not isinstance(texts, str) or len(texts) < 10_000:
        return texts
    longest = max(len(token) for token in tokenizer.vocabulary)
    enough = (tokens + 2) * longest
    if tokenizer.merges == [MERGES_HEADER]:  # no byte is merged with another
        return texts[:enough]
    end = re.compile(r"(?<=\S)(?=\s)").search(texts, enough)
    return texts[: end.start()] if end else texts


def _byte_symbols() -> list[str]:
    """The character that stands for each byte, by its value.

    Printable ones of Latin-1 stand for themselves, the other bytes, in order,
    for the characters from U+0100 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]

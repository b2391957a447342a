"""Captions to ids of whole words."""

import collections
import pathlib
import re
import unicodedata

import keras
import keras_hub

from keras_moe import checks
from keras_moe import files
from keras_moe.models import task_inputs
from keras_moe.models.presets import loading
from keras_moe.models.two_tower.backbone import MoETwoTowerBackbone

PAD, UNKNOWN, END = SPECIALS = ("[PAD]", "[UNK]", "[END]")
# Chinese characters, of which `WordPieceTokenizer` makes a word each.
CHINESE = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002a6df"
    "\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]"
)


@keras.saving.register_keras_serializable(package="keras_moe")
class CaptionTokenizer(
    loading.PartPresets, keras_hub.tokenizers.WordPieceTokenizer
):
    """Splits a caption into words and punctuation, in lower case.

    KerasHub's `WordPieceTokenizer` with a vocabulary of whole words: a word
    that is not in it is `[UNK]`. Pieces such as `##s`, if there are any, make
    up further words.

    Args:
        vocabulary: list of tokens, whose places are their ids, or the path of
            a text file with one in each line. `[PAD]` is the first one, and
            `[UNK]` and `[END]` are in it.
        lowercase: whether words are made lower case.
        **kwargs: further arguments of
            `keras_hub.tokenizers.WordPieceTokenizer`.

    Inputs: a string or a list of strings. Output: int32 ids, (tokens,) of a
    string, a list of lists of a list of strings.

    Raises:
        ValueError: for a vocabulary without these tokens.

    Example:

    >>> from keras_moe.models import CaptionTokenizer
    >>> tokenizer = CaptionTokenizer.from_captions(
    ...     ["A red cat.", "a dog"], vocabulary_size=6)
    >>> tokenizer.get_vocabulary()
    ['[PAD]', '[UNK]', '[END]', 'a', '.', 'cat']
    >>> tokenizer(["a cat", "a red dog"])
    [[3, 5], [3, 1, 1]]
    """

    backbone_cls = MoETwoTowerBackbone

    def __init__(self, vocabulary=None, lowercase: bool = True, **kwargs):
        if not kwargs.get("split", True):
            raise ValueError(
                "split must be True, as captions are split into words; "
                f"received {kwargs['split']!r}."
            )
        for token, name in ((PAD, "pad_token"), (END, "end_token")):
            self._add_special_token(token, name)
        super().__init__(
            vocabulary,
            lowercase=checks.flag("lowercase", lowercase),
            **{"oov_token": UNKNOWN, **kwargs},
        )
        self.built = True  # or Keras would not quantise a model that has it

    @classmethod
    def from_captions(cls, captions, vocabulary_size: int = 4096, **kwargs):
        """A tokenizer of the most frequent words of these captions.

        Args:
            captions: list of strings.
            vocabulary_size: at most so many tokens, three special ones among
                them. Of equally frequent words, the first by alphabet stay.
            **kwargs: further arguments of the class.
        """
        task_inputs.check_texts("captions", captions)
        checks.integer("vocabulary_size", vocabulary_size, len(SPECIALS) + 1)
        if kwargs.get("strip_accents", False):
            captions = [_without_accents(caption) for caption in captions]
        table = _around_words(captions, kwargs.get("split_on_cjk", True))
        counts = collections.Counter()
        for caption in captions:
            counts.update(caption.translate(table).split(" "))
        del counts[""]
        if kwargs.get("lowercase", True):
            folded, counts = counts, collections.Counter()
            for word, count in folded.items():
                word = unicodedata.normalize("NFKC", word).casefold()
                counts[word] += count
        words = sorted(counts, key=lambda word: (-counts[word], word))
        most = vocabulary_size - len(SPECIALS)
        return cls([*SPECIALS, *words[:most]], **kwargs)

    def set_vocabulary(self, vocabulary):
        """Set the vocabulary, a list of tokens or the path of a file."""
        super().set_vocabulary(vocabulary)
        if self.vocabulary is not None and self.vocabulary[0] != PAD:
            raise ValueError(
                f"vocabulary must have {PAD!r} first, the id 0; received "
                f"{self.vocabulary[0]!r}."
            )

    def load_assets(self, dir_path):
        """Read the vocabulary of a folder.

        Raises:
            UnreadableFile: for a file that is damaged, or that has other
                tokens first.
        """
        path = pathlib.Path(dir_path) / self.file_assets[0]
        with files.decoding(path, "vocabulary, UTF-8 text of one token a line"):
            self.set_vocabulary(path.read_text("utf-8").split("\n")[:-1])

    def tokenize(self, inputs):
        """The ids of a string or of a list of strings."""
        task_inputs.check_texts("inputs", inputs, one=True)
        return super().tokenize(inputs)


def _around_words(captions, split_on_cjk):
    """A table for `str.translate` that puts spaces where words end.

    Words end where those of KerasHub's `WordPieceTokenizer` do: punctuation
    and Chinese characters are words, marks above and below letters are not.
    """
    table = {}
    for sign in set().union(*captions):
        category = unicodedata.category(sign)
        if category in ("Cc", "Cf"):
            table[ord(sign)] = " "
        elif (
            category[0] == "P"
            or (sign.isascii() and not sign.isalnum())
            or (split_on_cjk and CHINESE.match(sign))
        ):
            table[ord(sign)] = f" {sign} "
    return table


def _without_accents(text):
    text = unicodedata.normalize("NFD", text)
    return "".join(sign for sign in text if unicodedata.category(sign) != "Mn")

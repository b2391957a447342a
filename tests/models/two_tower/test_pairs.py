"""Bad images and captions, refused; captions to ids."""

import keras
import numpy as np
import pytest

from keras_moe import models
from tests.models.support import make_backbone as make_image_tower
from tests.models.two_tower.support import CAPTIONS
from tests.models.two_tower.support import PIXELS
from tests.models.two_tower.support import WORDS
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import make_model
from tests.models.two_tower.support import make_preprocessor
from tests.models.two_tower.support import make_text_tower
from tests.models.two_tower.support import make_tokenizer

READY = ("token_ids", "padding_mask")

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model():
    return make_model()


def dataset(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(2)


class OwnBatches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return PIXELS, CAPTIONS


def made_ready(kind):
    return (
        "must be arrays, or a tf.data.Dataset or a data set of grain .* "
        f"received a {kind}"
    )


PAIR = "must be given too: images and captions are a pair"
EMPTY = "captions must not be empty; received '' at index 1"


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda m: m.fit(PIXELS), f"^captions {PAIR}"),
        (lambda m: m.fit({"images": PIXELS}), f"^captions {PAIR}"),
        (lambda m: m.fit(CAPTIONS), f"^images {PAIR}"),
        (lambda m: m.fit(dataset(PIXELS)), f"captions {PAIR}"),
        (lambda m: m.predict(PIXELS), f"^captions {PAIR}"),
        (
            lambda m: m.fit(PIXELS, CAPTIONS[:3]),
            "must be as many; received 4 images and 3 captions",
        ),
        (
            lambda m: m.evaluate((PIXELS[:2], CAPTIONS)),
            "must be as many; received 2 images and 4 captions",
        ),
        (lambda m: m.fit(PIXELS[:2], ["a cat", ""]), f"^{EMPTY}"),
        (lambda m: m.fit(OwnBatches()), f"^x {made_ready('OwnBatches')}"),
        (
            lambda m: m.fit(PIXELS, CAPTIONS, validation_data=OwnBatches()),
            f"^validation_data {made_ready('OwnBatches')}",
        ),
        (
            lambda m: m.evaluate((PIXELS, CAPTIONS) for _ in range(2)),
            f"^x {made_ready('generator')}",
        ),
        (
            lambda m: m.fit(
                PIXELS, CAPTIONS, validation_data=(PIXELS, CAPTIONS[:3])
            ),
            "must be as many; received 4 images and 3 captions",
        ),
        (
            lambda m: m.fit(
                PIXELS,
                CAPTIONS,
                validation_data=(PIXELS, CAPTIONS, np.ones(4)),
            ),
            "sample_weight must be None",
        ),
        (lambda m: m.fit(PIXELS[:2], ["a", 3]), "captions must be a text or"),
        (
            lambda m: m.fit((PIXELS, CAPTIONS), CAPTIONS),
            "captions must be given once",
        ),
        (
            lambda m: m.fit({"image": PIXELS, "captions": CAPTIONS}),
            "x must be a dictionary with images, captions or both, .* one "
            "with captions, image",
        ),
        (
            lambda m: m.fit(PIXELS, CAPTIONS, sample_weight=np.ones(4)),
            "sample_weight must be None",
        ),
        (lambda m: m.fit("cat", CAPTIONS), "captions must be given once|image"),
        (lambda m: m.encode_text(["a", ""]), f"^{EMPTY}"),
        (
            lambda m: m.encode_text(np.array(["a", " \u200b\n"])),
            "^captions must not be empty; received .* at index 1",
        ),
        (
            lambda m: m.encode_text(np.array([["a"]])),
            r"captions must be a text or a list of them; .* \(1, 1\)",
        ),
        (
            lambda m: m.encode_image(PIXELS[:0]),
            r"images must be a batch of at least one image, .* \(0, 12, 16",
        ),
        (lambda m: m.encode_image([]), "images must be a batch of at least on"),
        (lambda m: m.encode_text([]), "captions must be a text or a list"),
        (lambda m: m.encode_image(PIXELS[0]), "images must be a batch of imag"),
        (lambda m: m.encode_image(PIXELS, 0), "batch_size must be an integer"),
        (lambda m: m.encode_image("cat"), "images must be an image of three"),
        (
            lambda m: m.search(PIXELS, "cat", k=5),
            "k must be at most the number of images, 4; received 5",
        ),
        (lambda m: m.search(PIXELS, "", k=1), "captions must not be empty"),
        (
            lambda m: m.search(np.ones((4, 3)), "cat", k=1),
            r"images must be embeddings of width 8, .* shape \(4, 3\)",
        ),
        (lambda m: m.zero_shot_classifier([]), "classes must be a list of at"),
        (lambda m: m.zero_shot_classifier("cat"), "classes must be a list of"),
        (lambda m: m.zero_shot_classifier(["a", "a"]), "different strings"),
        (
            lambda m: m.zero_shot_classifier(["cat"], ["a"]),
            "templates must be texts with '{}' where the class goes",
        ),
        (lambda m: m.zero_shot_classifier(["cat"], []), "templates must be te"),
        (lambda m: m.compile(loss="mse"), "loss must be given to MoETwoTower"),
    ],
)
def test_what_does_not_fit(model, call, text):
    with pytest.raises(ValueError, match=f"(?s){text}"):
        call(model)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda m: m.fit(PIXELS, CAPTIONS), "x must be a dictionary of images"),
        (lambda m: m.fit({"images": PIXELS}), "received one with images"),
        (lambda m: m.encode_text("cat"), "captions must be a dictionary of to"),
        (
            lambda m: m.encode_text(dict.fromkeys(READY, np.ones((0, 4)))),
            r"at least one caption; received \(0, 4\) and \(0, 4\)\.",
        ),
        (
            lambda m: m.encode_text(dict(zip(READY, ([[1, 2]], [[1], [1]])))),
            r"of one shape .*; received \(1, 2\) and \(2, 1\)\.",
        ),
        (
            lambda m: m.encode_text(dict.fromkeys(READY, [])),
            r"of one shape .*; received \(0,\) and \(0,\)\.",
        ),
    ],
)
def test_what_does_not_fit_without_a_preprocessor(call, text):
    with pytest.raises(ValueError, match=text):
        call(make_model(preprocessor=False))


@pytest.mark.parametrize(
    "make, text",
    [
        (
            lambda: models.MoETwoTower(make_text_tower()),
            "backbone must be a Mo",
        ),
        (lambda: make_model(loss="mse"), "loss must be one of 'sigmoid', 'sof"),
        (lambda: make_model(same_caption=1), "same_caption must be one of"),
        (lambda: make_model(loss_chunk_size=0), "loss_chunk_size must be an"),
        (lambda: make_model(rate=1), "MoETwoTower has no argument rate"),
        (
            lambda: models.MoETwoTower(make_backbone(), make_tokenizer()),
            "preprocessor must be a MoETwoTowerPreprocessor or None",
        ),
        (
            lambda: models.MoETwoTower(make_backbone(), make_preprocessor(7)),
            "sequence_length of the preprocessor must be at most "
            "max_sequence_length of the text tower, 6; received 7",
        ),
        (
            lambda: make_model(
                make_backbone(text_tower=make_text_tower(vocabulary_size=7))
            ),
            "tokenizer must have at most vocabulary_size of the text tower, "
            "7, tokens; received one with 8",
        ),
        (
            lambda: models.MoETwoTowerPreprocessor(3, make_tokenizer()),
            "image_converter must be a keras_hub.layers.ImageConverter or No",
        ),
        (
            lambda: models.MoETwoTowerPreprocessor(None, 3),
            "tokenizer must be a keras_hub.tokenizers.Tokenizer",
        ),
        (
            lambda: models.MoETwoTowerPreprocessor(
                None, make_tokenizer(), add_start_token=True
            ),
            "add_start_token must be False where the tokenizer has no start",
        ),
        (
            lambda: models.CaptionTokenizer(["[UNK]", "[PAD]", "[END]"]),
            r"vocabulary must have '\[PAD\]' first",
        ),
        (
            lambda: models.CaptionTokenizer(["[PAD]", "[UNK]"]),
            r"Cannot find special token `'\[END\]'`",
        ),
        (
            lambda: models.CaptionTokenizer.from_captions(["a"], 3),
            "vocabulary_size must be an integer of at least 4",
        ),
        (
            lambda: models.CaptionTokenizer.from_captions(["a"], split=False),
            "split must be True, as captions are split into words",
        ),
        (
            lambda: models.ZeroShotClassifier(3, ["a"]),
            "backbone must be a keras.Model",
        ),
        (
            lambda: models.ZeroShotClassifier(make_image_tower(), ["a", "a"]),
            "class_names must be",
        ),
    ],
)
def test_arguments_that_do_not_fit(make, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        make()


# === Captions to ids ===


def test_captions_to_ids():
    reader = make_preprocessor()
    texts = ["A Red CAT", "two-dog", "a red cat a red cat a"]
    wanted = [[3, 4, 5, 2, 0, 0], [7, 1, 6, 2, 0, 0], [3, 4, 5, 3, 4, 2]]
    found = reader(texts)
    assert found["token_ids"].tolist() == wanted
    assert found["padding_mask"].sum(1).tolist() == [4, 4, 6]
    assert set(found) == {"token_ids", "padding_mask"}
    # Alike in a graph of TensorFlow.
    graph = list(dataset(np.array(texts)).map(reader))
    ids = [row for batch in graph for row in batch["token_ids"].numpy()]
    assert np.array(ids).tolist() == wanted
    assert reader(PIXELS)["images"].shape == (4, 12, 16, 3)
    again = type(reader).from_config(reader.get_config())
    assert again.get_config() == reader.get_config()


def test_words_of_captions_are_what_the_tokenizer_splits():
    captions = ["Don't", "x_y 3.5", "Straße ﬁn", "a-b (c)"]
    tokenizer = models.CaptionTokenizer.from_captions(captions, 99)
    assert 1 not in [i for ids in tokenizer(captions) for i in ids]
    assert len(tokenizer.get_vocabulary()) == 3 + 17
    assert tokenizer.detokenize(tokenizer("a-b")) == "a - b"


@pytest.mark.parametrize(
    "caption, words, options",
    [
        ("红的猫", {"红", "的", "猫"}, {}),
        ("红的猫", {"红的猫"}, {"split_on_cjk": False}),
        ("हिन्दी बिल्ली", {"हिन्दी", "बिल्ली"}, {}),
        ("5€ → cafe\u0301…", {"5€", "→", "café", "..."}, {}),
        ("Café x\u200dy", {"cafe", "x", "y"}, {"strip_accents": True}),
    ],
)
def test_words_of_other_scripts(caption, words, options):
    tokenizer = models.CaptionTokenizer.from_captions([caption], **options)
    assert set(tokenizer.get_vocabulary()[3:]) == words
    assert sorted(tokenizer(caption)) == [3 + n for n in range(len(words))]


@pytest.mark.parametrize("content", [b"\xff\n", b"", b"[UNK]\n[PAD]\n[END]\n"])
def test_a_damaged_vocabulary(content, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_assets(str(tmp_path))
    tokenizer.load_assets(str(tmp_path))
    assert tokenizer.get_vocabulary() == WORDS
    (tmp_path / "vocabulary.txt").write_bytes(content)
    with pytest.raises(ValueError, match="vocabulary.txt"):
        tokenizer.load_assets(str(tmp_path))


def test_tokenizers_of_others():
    reader = models.MoETwoTowerPreprocessor(
        None, models.MoTTokenizer.byte_level(), sequence_length=4
    )
    assert reader(["ab"])["token_ids"].tolist() == [[97, 98, 256, 256]]
    assert reader(["ab"])["padding_mask"].tolist() == [[True] * 3 + [False]]

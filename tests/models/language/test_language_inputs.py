"""What language tasks are given: refused by name before anything is made."""

import threading
import time

import numpy as np
import pytest

from keras_moe import models
from keras_moe.models.language.tokenizer import beginning
from tests.models import language_support as support

PROMPT = {
    "token_ids": np.ones((1, 6), "int32"),
    "padding_mask": np.array([[1, 1, 0, 0, 0, 0]]),
}
NO_TEXTS = [
    ([], "received \\[\\] \\(list\\)"),
    (None, "received None"),
    (5, "received 5"),
    (b"abc", "received b'abc'"),
    ({"a": 1}, "received {'a': 1}"),
    ([1, 2], "received 1 \\(int\\) at index 0"),
    (["a", None], "received None \\(NoneType\\) at index 1"),
    ([["a"], ["b"]], "received \\['a'\\] \\(list\\) at index 0"),
    (np.zeros(2), "received array"),
    (range(3), "received range"),
]


@pytest.fixture(scope="module")
def causal():
    return support.make_causal("argmax")


@pytest.fixture(scope="module")
def masked():
    preprocessor = models.MoTMaskedLMPreprocessor(
        models.MoTTokenizer.byte_level("[MASK]"), sequence_length=8
    )
    backbone = support.make_backbone(causal=False)
    return models.MoTMaskedLM(backbone, preprocessor)


@pytest.mark.parametrize("value, text", NO_TEXTS)
def test_what_is_no_text(causal, masked, value, text):
    with pytest.raises(ValueError, match=f"^inputs must be a text.*{text}"):
        causal.generate(value)
    with pytest.raises(ValueError, match=f"^x must be a text or a.*{text}"):
        causal.preprocessor.generate_preprocess(value)
    for task in (causal, masked):
        for method in ("predict", "fit", "evaluate", "train_on_batch"):
            with pytest.raises(
                ValueError, match=f"^x must be a list of at.*{text}"
            ):
                getattr(task, method)(value)
        with pytest.raises(ValueError, match=f"x must be a text or a.*{text}"):
            task.preprocessor(value)
        if not isinstance(value, list) or value:
            with pytest.raises(ValueError, match=f"inputs must be a.*{text}"):
                task.preprocessor.tokenizer(value)


def test_one_text_is_no_batch(causal):
    with pytest.raises(ValueError, match="^x must be a list of at.*'abc'"):
        causal.predict("abc")


@pytest.mark.parametrize(
    "value",
    [5, -1, "stop", True, [], (), (1.5,), (None,), ["a"], (-1,), [[1]], {}],
)
def test_stop_tokens_that_do_not_fit(causal, value):
    with pytest.raises(ValueError, match='^stop_token_ids must be "auto", Non'):
        causal.generate("ab", max_length=4, stop_token_ids=value)


def test_forms_of_stop_tokens(causal):
    expected = causal.generate("ab", max_length=4, stop_token_ids=(256, 7))
    for value in ([256, 7], {256, 7}, np.array([256, 7])):
        found = causal.generate("ab", max_length=4, stop_token_ids=value)
        assert found == expected
    texts = causal.generate(np.array(["ab"]), 4, stop_token_ids=(256, 7))
    assert texts == [expected]


def test_flags_and_lengths(causal):
    for value in (None, 1, "yes"):
        with pytest.raises(ValueError, match="^strip_prompt must be True or F"):
            causal.generate("ab", strip_prompt=value)
    preprocessor = causal.preprocessor
    for value in (0, -1, 2.5, "a"):
        for method in (preprocessor, preprocessor.generate_preprocess):
            with pytest.raises(ValueError, match="sequence_length must be an"):
                method("a", sequence_length=value)
    for value in (None, [], "a", {"token_ids": 1}):
        with pytest.raises(ValueError, match="^x must be a dictionary of tok"):
            preprocessor.generate_postprocess(value)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"token_ids": np.ones((1, 6))}, "token_ids must be integers"),
        ({"token_ids": [["a"]]}, "token_ids must be integers"),
        ({"token_ids": None}, "token_ids must be integers"),
        ({"token_ids": [[1, 2], [3]]}, "token_ids must be an array"),
        ({"padding_mask": np.full((1, 6), 7)}, "padding_mask must have 1 for"),
    ],
)
def test_ids_that_do_not_fit(causal, change, text):
    bare = models.MoTCausalLM(causal.backbone)
    with pytest.raises(ValueError, match=f"^{text}"):
        bare.generate({**PROMPT, **change}, stop_token_ids=None)


def test_what_is_no_dictionary_of_ids(causal):
    bare = models.MoTCausalLM(causal.backbone)
    for value in (None, "abc", ["abc"], [], np.ones((1, 6)), 5):
        with pytest.raises(ValueError, match="^x must be a dictionary of arr"):
            bare.predict(value)
        with pytest.raises(ValueError, match="^inputs must be a dictionary"):
            bare.generate(value, stop_token_ids=None)
    with pytest.raises(ValueError, match='^stop_token_ids="auto" needs a pre'):
        bare.generate(PROMPT)


@pytest.mark.once
def test_nothing_is_made_before_it_is_checked(causal):
    """Seconds, where it took minutes."""
    start = time.monotonic()
    with pytest.raises(ValueError, match="^max_length, or sequence_length of"):
        causal.generate("a", max_length=10**7)
    text = "to be " * 400_000
    assert text.startswith(causal.generate(text, max_length=8))
    for array in causal.preprocessor.generate_preprocess([text]).values():
        assert tuple(array.shape) == (1, support.LENGTH)
    assert time.monotonic() - start < 20


@pytest.mark.once
@pytest.mark.parametrize(
    "text",
    ["ab a  \n a aa" * 1000, "a" * 12_000, "a[M A]b " * 2000, " " * 12_000],
)
def test_the_beginning_of_a_text_has_its_first_tokens(text):
    vocabulary = dict(models.MoTTokenizer.byte_level().vocabulary)
    for token in ("Ġa", "aa", "ĠĠ", "[M A]"):
        vocabulary[token] = len(vocabulary)
    tokenizer = models.MoTTokenizer(
        vocabulary, ["Ġ a", "a a", "Ġ Ġ"], mask_token="[M A]"
    )
    cut = beginning(tokenizer, text, 20)
    assert text.startswith(cut)
    assert list(tokenizer(cut))[:20] == list(tokenizer(text))[:20]


def test_generate_in_several_threads():
    model = support.make_causal("argmax")
    prompts = ["ab", "To be", "x"]
    found = {}

    def go_on(prompt):
        found[prompt] = model.generate(prompt, max_length=8)

    threads = [threading.Thread(target=go_on, args=[p]) for p in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {p: model.generate(p, max_length=8) for p in prompts}


@pytest.mark.parametrize("masked", [False, True])
def test_preprocessors_are_built_by_one_thread(masked):
    tokenizer = models.MoTTokenizer.byte_level(
        mask_token="[MASK]" if masked else None
    )
    cls = models.MoTMaskedLMPreprocessor
    cls = cls if masked else models.MoTCausalLMPreprocessor
    preprocessor = cls(tokenizer, sequence_length=8)
    start, errors = threading.Barrier(4), []

    def build():
        start.wait()
        try:
            preprocessor.build(None)
        except ValueError as error:
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and preprocessor.built

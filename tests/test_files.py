"""Reading JSON files that others wrote."""

import ast
import pathlib
import re

import pytest

from keras_moe import files

pytestmark = pytest.mark.once

WRONG = {
    b"": "Expecting value",
    b"{": "Expecting property name",
    b"null": "must hold a JSON object; it holds None",
    b"[1]": r"must hold a JSON object; it holds \[1\]",
    b'"text"': "must hold a JSON object; it holds 'text'",
    b"[" * 100_000: "more than 100 levels",
    b'{"a":' * 100_000: "more than 100 levels",
    b'{"a":' * 500 + b"1" + b"}" * 500: "more than 100 levels",
    b'{"a": 1, "a": 2}': "the key 'a' occurs twice",
    b'{"a": 9223372036854775808}': "9223372036854775808' does not fit 64 bits",
    b'{"a": ' + b"9" * 10_000 + b"}": "does not fit 64 bits",
    b'{"a": 1e999}': "the number '1e999' is too large",
    b'{"a": NaN}': "NaN is no number of JSON",
    b'{"a": -Infinity}': "-Infinity is no number of JSON",
    b'{"a": "\\ud800"}': "surrogates not allowed",
    '{"a": "é"}'.encode("latin-1"): "'utf-8' codec can't decode",
    '{"a": 1}'.encode("utf-16"): "'utf-8' codec can't decode",
    '{"a": 1}'.encode("utf-32-le"): "Expecting property name",
    b'{"a": 1} {}': "Extra data",
}


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
def test_json_that_is_none(content, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(files.UnreadableFile, match=WRONG[content]) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_that_is_good(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"é": [1, -2.5, "\\ud83d\\ude00"]}', "utf-8-sig")
    assert files.read_json(path) == {"é": [1, -2.5, "\U0001f600"]}
    path.write_text("[NaN]")
    (value,) = files.read_json(path, list, finite=False)
    assert value != value


def test_json_that_cannot_be_opened(tmp_path):
    for path, match in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none.json", "No such file or directory"),
    ):
        with pytest.raises(
            files.UnreadableFile, match=f"{re.escape(str(path))}.*{match}"
        ):
            files.read_json(path)


@pytest.mark.parametrize(
    "raised",
    [RecursionError(), OverflowError("far\ntoo large"), KeyError("name")],
)
def test_a_codecs_error_names_the_file(raised):
    class Own(ValueError):
        pass

    with (
        pytest.raises(Own, match="^here.bin is no thing: ") as caught,
        files.decoding("here.bin", "thing", Own),
    ):
        raise raised
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is raised


def test_own_errors_and_lacking_packages_pass():
    for raised in (files.UnreadableFile("text"), ImportError("no package")):
        with (
            pytest.raises(type(raised), match=str(raised)),
            files.decoding("here.bin", "thing"),
        ):
            raise raised


def test_errors_about_a_file_name_it():
    with (
        pytest.raises(files.UnreadableFile, match="^a.pt: b is short"),
        files.about("a.pt"),
    ):
        raise ValueError("b is short")
    with (
        pytest.raises(files.UnreadableFile, match="^b of a.pt is short"),
        files.about("a.pt"),
    ):
        raise ValueError("b of a.pt is short")


def test_a_short_path_is_no_part_of_a_word():
    with (
        pytest.raises(files.UnreadableFile, match="^in: b is missing$"),
        files.about("in"),
    ):
        raise ValueError("b is missing")
    for text in ("in.index is short", "in/b is short", "b of in: is short"):
        with pytest.raises(ValueError, match=f"^{text}$"), files.about("in"):
            raise ValueError(text)


# Where json reads anything but a file that someone else may have written.
OWN_JSON = {
    "keras_moe/files.py": "the reader itself",
    "keras_moe/models/presets/bounds.py": "what json.dumps has just made",
    "guides/site/hooks.py": "committed results; the package is not there",
    "guides/site/runs.py": "committed results; the package is not there",
    "guides/site/links.py": "the index that mkdocs has just made",
}


def test_json_is_read_in_one_place():
    root, found = pathlib.Path(__file__).parent.parent, set()
    for part in ("keras_moe", "conversion", "zoo", "guides/site"):
        for path in (root / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "json"
                    and node.attr in ("load", "loads", "JSONDecoder")
                ):
                    found.add(path.relative_to(root).as_posix())
    assert found == set(OWN_JSON)


def test_new_and_empty_parents_are_deleted(tmp_path):
    (tmp_path / "there").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        files.new_parents(tmp_path / "there" / "a" / "b" / "c"),
    ):
        (tmp_path / "there" / "a" / "b").mkdir(parents=True)
        raise KeyboardInterrupt
    assert list((tmp_path / "there").iterdir()) == []
    with (
        pytest.raises(OSError, match="full"),
        files.new_parents(tmp_path / "a" / "b" / "c"),
    ):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "mine").touch()
        raise OSError("full")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine"]

"""Public names, signatures and docstrings: as committed, and well written."""

import ast
import inspect
import pathlib
import re

import pytest

import keras_moe
from tests import public_api

ROOT = pathlib.Path(__file__).parent.parent
# A docstring opens with a verb or the thing's name.
OPENINGS = ("What", "Where", "Which", "How", "Who", "Whoever")
ARGUMENT = re.compile(r"^ {4}([\w*, ]+): (.*(?:\n {8,}.*)*)$", re.MULTILINE)

pytestmark = pytest.mark.once


def arguments_of(thing):
    """{name: text} of the section Args of a docstring."""
    found = re.search(
        r"^Args:\n(.*?)(?=\n\s*\n|\Z)",
        inspect.cleandoc(thing.__doc__ or ""),
        re.DOTALL | re.MULTILINE,
    )
    return dict(ARGUMENT.findall(found[1])) if found else {}


def test_the_listing_is_as_committed():
    committed = public_api.PATH.read_text("utf-8").splitlines()
    now = public_api.listing().splitlines()
    assert now == committed, "python -m tests.public_api writes it anew"


def test_public_functions_and_classes_have_docstrings():
    for path, thing in public_api.members():
        if path.count(".") == 2 and callable(thing):
            assert public_api.heading(thing), path


def test_docstrings_open_with_a_verb_or_a_name():
    for package in ("keras_moe", "conversion", "zoo"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            for node in ast.walk(tree):
                text = isinstance(node, kinds) and ast.get_docstring(node)
                if text:
                    assert text.split()[0] not in OPENINGS, (path, text)


def test_arguments_are_described_by_nouns():
    checked = 0
    for path, thing in public_api.members():
        if inspect.isclass(thing) or inspect.isfunction(thing):
            for name, text in arguments_of(thing).items():
                assert not text.startswith("of "), (path, name, text)
                checked += 1
    assert checked > 200


def test_the_layers_describe_shared_arguments_alike():
    layers = [getattr(keras_moe.layers, n) for n in keras_moe.layers.__all__]
    texts = [
        arguments_of(x) for x in layers if "num_experts" in arguments_of(x)
    ]
    assert len(texts) == 4
    shared = set.intersection(*map(set, texts)) - {"implementation"}
    assert {"activation", "expert", "kernel_initializer"} <= shared
    for name in shared:
        assert len({text[name] for text in texts}) == 1, name

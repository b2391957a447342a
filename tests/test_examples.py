"""The examples of docstrings and README run, and say what they say."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import shlex

import pytest

import keras_moe
from conversion.__main__ import parser
from keras_moe import __main__ as package

ROOT = pathlib.Path(keras_moe.__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_moe.__path__, "keras_moe.")
)
WITH_EXAMPLES = (
    "keras_moe.diagnostics",
    "keras_moe.distribution",
    "keras_moe.initializers",
    "keras_moe.layers.expert_choice",
    "keras_moe.layers.mixture_of_tokens",
    "keras_moe.layers.soft_moe",
    "keras_moe.layers.token_choice",
    "keras_moe.models.architectures",
    "keras_moe.models.causal_lm",
    "keras_moe.models.causal_lm_preprocessor",
    "keras_moe.models.catalogue",
    "keras_moe.models.masked_lm",
    "keras_moe.models.masked_lm_preprocessor",
    "keras_moe.models.positions",
    "keras_moe.models.tokenizer",
    "keras_moe.models.vit",
    "keras_moe.models.vit_classifier",
    "keras_moe.planning",
    "keras_moe.samples",
    "keras_moe.upcycling",
    "keras_moe.visualize.page",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)


def test_readme_examples():
    text = (ROOT / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 6
    namespace = {}
    for snippet in snippets:  # the second goes on from the first
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (4, 10)
    assert namespace["facts"]["load"].shape == (16,)
    assert set(namespace["guesses"]) == {0}  # the first four are T-shirts
    assert namespace["hard"].router == "expert_choice"


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)$", readme, re.MULTILINE)
    assert commands == ["demo", "test"]
    for target in commands:
        assert f"\n{target}:" in makefile


def test_readme_conversions_are_of_the_command_line():
    text = (ROOT / "README.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^python -m conversion (.*)$", text, re.MULTILINE)
    parsed = [parser().parse_args(shlex.split(line)) for line in commands]
    assert {p.command for p in parsed} == {"vmoe", "mot", "llm-random"}


def test_readme_commands_of_the_package():
    text = (ROOT / "README.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^python -m keras_moe (.*)$", text, re.MULTILINE)
    parsed = [package.parser().parse_args(shlex.split(c)) for c in commands]
    assert {p.command for p in parsed} == {"generate", "plan"}

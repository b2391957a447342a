"""The examples of docstrings and README run, and say what they say."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import shlex

import keras
import pytest

import keras_moe
from conversion.__main__ import parser
from keras_moe import __main__ as package
from zoo.__main__ import parser as zoo_parser

ROOT = pathlib.Path(keras_moe.__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_moe.__path__, "keras_moe.")
)
WITH_EXAMPLES = (
    "keras_moe.constraints",
    "keras_moe.costs",
    "keras_moe.diagnostics",
    "keras_moe.distribution",
    "keras_moe.files",
    "keras_moe.initializers",
    "keras_moe.kerashub.lora",
    "keras_moe.kerashub.quantized",
    "keras_moe.kerashub.sparse",
    "keras_moe.layers.expert_choice",
    "keras_moe.layers.mixture_of_depths",
    "keras_moe.layers.recompute",
    "keras_moe.layers.mixture_of_tokens",
    "keras_moe.layers.soft_moe",
    "keras_moe.layers.token_choice",
    "keras_moe.models.vision.architectures",
    "keras_moe.models.language.causal_lm",
    "keras_moe.models.language.causal_lm_preprocessor",
    "keras_moe.models.presets.catalogue",
    "keras_moe.models.two_tower.backbone",
    "keras_moe.models.two_tower.preprocessing",
    "keras_moe.models.two_tower.task",
    "keras_moe.models.two_tower.text",
    "keras_moe.models.two_tower.tokenizer",
    "keras_moe.models.language.masked_lm",
    "keras_moe.models.language.masked_lm_preprocessor",
    "keras_moe.contrastive",
    "keras_moe.models.vision.positions",
    "keras_moe.models.language.tokenizer",
    "keras_moe.models.vision.backbone",
    "keras_moe.models.vision.classifier",
    "keras_moe.processes",
    "keras_moe.samples",
    "keras_moe.upcycling.conversion",
    "keras_moe.visualize.page",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)


def upcycled(said):
    return said["hard"].router == "expert_choice"


def classified(said):
    assert said["logits"].shape == (4, 10)
    names = [[name for name, _ in image] for image in said["best"]]
    assert names == [[name for name, _ in image] for image in said["same"]]
    assert names[0][0].startswith("digit ") and len(names[3]) == 2
    return said["adapters"] < said["before"]


def devices(said):
    return (said["spread"] is None) == (keras.backend.backend() != "jax")


def migrated(said):
    return said["difference"] < 1e-5 and said["outputs"].shape == (2, 10, 16)


def dropped(said):
    shares = said["dropped"]
    assert set(shares) == {"expert_choice", "token_choice"}
    return min(shares.values()) > 0.1


def found_by_caption(said):
    assert said["classifier"].class_names == ("red", "green", "blue")
    assert said["clip"].projection_dim == 4
    losses = said["history"].history["loss"]
    return losses[-1] < losses[0] and said["many"].shape == (2, 3)


def shuffled(said):
    # The rows that validation takes, with those that training has.
    last = said["labels"][-len(said["labels"]) // 5 :]
    return len(set(last)) == 10 and "val_loss" in said["history"].history


# README, and each page with examples: what must hold when they have run.
PAGES = {
    "README.md": lambda said: (
        said["facts"]["load"].shape == (16,)
        and said["name"] == "T-shirt/top"
        and len(said["changed"]) == 2
    ),
    "guides/site/pages/backends.md": lambda said: (
        said["keras_moe"].ops.select(said["many"], "auto", said["backend"])
        == "streaming"
    ),
    "guides/site/pages/devices.md": devices,
    "guides/site/pages/kerashub.md": lambda said: (
        said["difference"] < 1e-5 and len(said["changed"]) == 2
    ),
    "guides/site/pages/migration.md": migrated,
    "guides/site/pages/models.md": classified,
    "guides/site/pages/presets.md": lambda said: "model" in said["entry"],
    "guides/site/pages/routers.md": dropped,
    "guides/site/pages/training.md": shuffled,
    "guides/site/pages/two_towers.md": found_by_caption,
    "guides/site/pages/upcycling.md": upcycled,
    "guides/site/pages/value_network.md": lambda said: (
        said["network"].output_shape == (None, 4)
    ),
}


def texts():
    """README and the site's pages, by their path, with lines joined."""
    paths = [ROOT / "README.md", *(ROOT / "guides" / "site").rglob("*.md")]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text().replace("\\\n", "")
        for path in paths
    }


def commands(of):
    """What follows `of` at the start of a line, in README or a page."""
    pattern = re.compile(rf"^{re.escape(of)} (.*)$", re.MULTILINE)
    return [line for text in texts().values() for line in pattern.findall(text)]


def test_pages_with_examples():
    assert set(PAGES) == {p for p, t in texts().items() if "```python" in t}


@pytest.mark.parametrize("page", PAGES)
def test_page_examples(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = {}  # an example goes on from the ones before it
    for code in re.findall(r"```python\n(.*?)```", texts()[page], re.DOTALL):
        exec(compile(code, page, "exec"), said)
    assert PAGES[page](said)


def test_commands_of_the_makefile_exist():
    makefile = (ROOT / "Makefile").read_text()
    readme = texts()["README.md"]
    assert re.findall(r"^make (\w+)$", readme, re.MULTILINE) == ["demo", "test"]
    told = set(re.findall(r"`make (\w+)`", readme))
    assert told == {
        "bench",
        "demo",
        "docs",
        "lint",
        "notebooks",
        "quick",
        "test",
    }
    for target in told:
        assert f"\n{target}:" in makefile


def test_conversions_are_of_the_command_line():
    lines = commands("python -m conversion")
    parsed = [parser().parse_args(shlex.split(line)) for line in lines]
    assert {p.command for p in parsed} == {"vmoe", "mot", "llm-random"}


def test_commands_of_the_package():
    lines = commands("python -m keras_moe")
    parsed = [package.parser().parse_args(shlex.split(line)) for line in lines]
    assert {p.command for p in parsed} == {"generate", "plan"}


def test_commands_of_the_zoo():
    lines = []
    for text in texts().values():
        lines += re.findall(r"`python -m zoo ([^`]+)`", text)
    parsed = [zoo_parser().parse_args(shlex.split(line)) for line in lines]
    told = {p.command for p in parsed}
    assert {"train", "compare", "build", "publish", "verify"} <= told

"""Requirements: bounds for users, a pinned PyTorch and peers for our tests."""

import importlib.util
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]

pytestmark = pytest.mark.once


def with_their_own(names):
    """All requirements of extras, those of other extras among them."""
    found = []
    for name in names:
        for requirement in EXTRAS[name]:
            own = re.fullmatch(r"keras-moe\[(.*)\]", requirement)
            found += with_their_own(own[1].split(",")) if own else [requirement]
    return found


def torch_of(names):
    return [r for r in with_their_own(names) if re.match(r"torch\b", r)]


def test_users_keep_the_backend_that_is_installed():
    for backend in ("jax", "tensorflow", "torch"):
        for requirement in EXTRAS[backend]:
            assert re.fullmatch(rf"{backend}>=\d+\.\d+", requirement)
    for name in set(EXTRAS) - {"torch", "pinned", "dev"}:
        assert torch_of([name]) == [], name


def test_environments_of_the_makefile_pin_pytorch():
    (pin,) = EXTRAS["pinned"]
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", pin)
    (tested,) = re.findall(r"^EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)
    assert pin in torch_of(["dev"]) and pin in torch_of(tested.split(","))
    # The demo on PyTorch adds the extra, on the other backends not.
    assert "$*$(comma)demo$(PIN_$*)" in MAKEFILE
    pins = re.findall(r"^PIN_(\w+) := (.*)$", MAKEFILE, re.MULTILINE)
    assert pins == [("torch", "$(comma)pinned")]


def test_readme_says_what_stays():
    readme = (ROOT / "README.md").read_text()
    (bound,) = EXTRAS["torch"]
    assert f"from {bound.removeprefix('torch>=')} on" in " ".join(
        readme.split()
    )
    assert "`pinned`" in readme


def test_a_benchmark_names_the_packages_that_it_lacks(monkeypatch):
    from tests.benchmarks import soft_moe_layers

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        soft_moe_layers.check_peers()
    assert str(error.value) == (
        "soft_moe_layers times layers of soft-moe-pytorch and soft-moe on "
        "PyTorch; missing: soft-moe-pytorch soft-moe (pip install --no-deps "
        "soft-moe-pytorch soft-moe)."
    )
    assert "soft-moe-pytorch" in EXTRAS["dev"]

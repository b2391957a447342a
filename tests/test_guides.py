"""The guides run."""

import importlib.util
import pathlib

import pytest

GUIDES = pathlib.Path(__file__).parent.parent / "guides"


def load(name):
    """A guide as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name, GUIDES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_untrained(tmp_path, capsys):
    """All but the training, which takes minutes."""
    picture = tmp_path / "slots.png"
    load("digits").main(["--epochs", "0", "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert "450 held out" in printed and "Soft MoE" in printed
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_upcycling_briefly(capsys):
    """Too few steps to learn from, enough to run all there is."""
    found = load("upcycling").main(["--steps", "8"])
    assert {len(losses) for losses in found.values()} == {5}
    # What was upcycled begins where the dense model ended, or near it.
    for router in ("soft", "expert_choice", "token_choice"):
        start, end = found[router][0], found["dense"][-1]
        assert abs(start - end) < 0.2
    assert "soft to expert_choice, tuned" in capsys.readouterr().out

"""The guides run."""

import importlib.util
import pathlib

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

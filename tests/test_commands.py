"""Commands end with their output or with one line, never with a traceback."""

import json
import subprocess
import sys

import pytest

import keras_moe.__main__ as keras_moe_command
from conversion import __main__ as conversion_command
from keras_moe import architectures
from keras_moe import commands
from keras_moe import plan_command
from zoo import __main__ as zoo_command

pytestmark = pytest.mark.once
RECIPE = "soft_moe_vit_tiny_fashion_mnist"


def ended(main, arguments, capsys):
    """The exit code, and the one line that was said."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    said = capsys.readouterr().err
    if isinstance(end.value.code, str):  # which Python writes to stderr
        said, code = end.value.code, 1
    else:
        code = end.value.code
    assert "Traceback" not in said
    return code, said.strip()


@pytest.mark.parametrize(
    "option", [("--epochs", "0"), ("--epochs", "x"), ("--seed", "x")]
)
def test_arguments_that_do_not_fit(option, capsys):
    code, said = ended(zoo_command.main, ["train", RECIPE, *option], capsys)
    assert code == 2 and option[0] in said and repr(option[1]) in said


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000])
def test_options_that_are_no_json_object(text, capsys):
    arguments = ["turn", RECIPE, "--router", "token_choice", "--options", text]
    code, said = ended(zoo_command.main, arguments, capsys)
    assert code == 2 and "argument --options: must be" in said


def test_evaluate_before_any_run(tmp_path, capsys):
    arguments = ["evaluate", RECIPE, "--runs", tmp_path, "--data", tmp_path]
    code, said = ended(zoo_command.main, arguments, capsys)
    assert code == 1 and said.startswith("error: ") and "\n" not in said
    assert str(tmp_path) in said


def test_a_folder_where_a_prefix_was_meant(tmp_path, capsys):
    (tmp_path / "model_7.index").write_bytes(b"")
    out = tmp_path / "new" / "out"
    code, said = ended(conversion_command.main, ["vmoe", tmp_path, out], capsys)
    assert code == 1 and "\n" not in said
    assert f"prefix, such as {tmp_path / 'model_7'}" in said
    assert not (tmp_path / "new").exists()


def test_a_file_where_a_folder_was_meant(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, said = ended(
        conversion_command.main, ["mot", tmp_path / "file", "out"], capsys
    )
    assert code == 1 and "\n" not in said and str(tmp_path / "file") in said


@pytest.mark.parametrize("name", ["soft_moe_h14", "soft_moe_vit_h14"])
def test_plan_takes_the_names_of_from_architecture(name):
    assert architectures.get(name)["hidden_dim"] == 1280
    parser = keras_moe_command.parser()
    given = parser.parse_args(["plan", "--architecture", name])
    assert plan_command.report(given).startswith(f"{name}, without a head")


def test_help_lists_the_names(capsys):
    with pytest.raises(SystemExit, match="0"):
        keras_moe_command.main(["plan", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(architectures.names()) in said


def test_an_unknown_name(capsys):
    code, said = ended(
        keras_moe_command.main, ["plan", "--architecture", "vit_x"], capsys
    )
    assert code == 1 and "'soft_moe_h14'" in said and "\n" not in said


def test_without_kerashub(tmp_path):
    """As if the package were absent: one line that names the extra."""
    program = (
        "import sys; sys.modules['keras_hub'] = None\n"
        "from keras_moe.__main__ import main\n"
        "main(['presets'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ") and "keras-moe[models]" in line
    assert "Traceback" not in done.stderr


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(zoo_command.COMMANDS, "train", interrupted)
    code, said = ended(zoo_command.main, ["train", RECIPE], capsys)
    assert code == 130
    assert said == (
        "interrupted; the same command goes on from the last epoch that was "
        "saved"
    )


def test_an_error_tells_no_credentials(capsys):
    import keras_moe.models  # noqa: F401  what asks servers

    def asks():
        raise OSError("no answer from https://me:secret@hub.example/a?key=1\n")

    with pytest.raises(SystemExit) as end:
        commands.run(asks)
    assert end.value.code == (
        "error: no answer from https://***@hub.example/a?***"
    )


def test_other_errors_show_where_they_are():
    def fails():
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        commands.run(fails)


def test_numbers():
    assert commands.positive("3") == 3
    assert commands.positive_real("1e-3") == json.loads("1e-3")

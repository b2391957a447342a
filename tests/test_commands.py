"""Commands end with their output or with one line, never with a traceback."""

import os
import pathlib
import signal
import time

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
    assert said.endswith(
        f"run `python -m zoo train {RECIPE} --runs {tmp_path}` first."
    )


@pytest.mark.parametrize(
    "command, words",
    [
        (["record", RECIPE], ["train", "evaluate"]),
        (["record", RECIPE, "--further"], ["further", "evaluate"]),
        (["evaluate", RECIPE, "--further"], ["further"]),
        (["further", RECIPE], ["train"]),
        (["tune", "mot_tiny_shakespeare"], ["train"]),
        (["pack", RECIPE], ["train"]),
        (["pack", RECIPE, "--further"], ["further"]),
        (["pack", RECIPE, "--tuned", "self"], ["tune"]),
    ],
)
def test_other_commands_before_any_run(command, words, tmp_path, capsys):
    seed = [] if "record" in command else ["--seed", "2"]
    code, said = ended(
        zoo_command.main, [*command, *seed, "--runs", tmp_path], capsys
    )
    assert code == 1 and "\n" not in said and said.endswith("first.")
    for word in words:
        assert f"`python -m zoo {word} {command[1]}" in said
    assert "record" in command or f"--seed 2 --runs {tmp_path}" in said


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


def refuses(self, *args, **kwargs):
    raise PermissionError(13, "Permission denied", str(self))


@pytest.mark.parametrize("why", ["a file", "unwritable"])
def test_a_folder_of_runs_that_cannot_be(why, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    runs = tmp_path / ("file" if why == "a file" else "runs")
    if why == "unwritable":
        monkeypatch.setattr(pathlib.Path, "mkdir", refuses)
    arguments = ["train", RECIPE, "--runs", runs, "--data", tmp_path]
    code, said = ended(zoo_command.main, arguments, capsys)
    assert code == 1 and said.startswith("error: [Errno ")
    assert "\n" not in said and str(runs) in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("out", ["file", "file/out", "full"])
def test_an_output_that_cannot_be_written(out, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "source").mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments = ["mot", tmp_path / "source", tmp_path / out]
    code, said = ended(conversion_command.main, arguments, capsys)
    assert code == 1 and "\n" not in said and str(tmp_path) in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_that_stops_reading(monkeypatch):
    def writes():
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(commands, "_close_stdout", lambda: None)
    with pytest.raises(SystemExit) as end:
        commands.run(writes)
    assert end.value.code == 1


def test_ctrl_c_that_a_library_turns_into_its_own_error(capsys):
    def computes():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise RuntimeError("INTERNAL") from error

    with pytest.raises(SystemExit, match="130"):
        commands.run(computes, "again")
    assert capsys.readouterr().err == "interrupted; again\n"


def test_ctrl_c_where_python_ignores_errors(capsys):
    """KeyboardInterrupt in `__del__` would get lost."""

    class Frees:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1e-3)

    def computes():
        Frees()
        time.sleep(5)
        raise AssertionError("went on")

    with pytest.raises(SystemExit, match="130"):
        commands.run(computes, "again")
    assert capsys.readouterr().err == "interrupted; again\n"


@pytest.mark.parametrize("name", ["soft_moe_h14", "soft_moe_vit_h14"])
def test_plan_takes_the_names_of_from_architecture(name):
    assert architectures.get(name)["hidden_dim"] == 1280
    parser = keras_moe_command.parser()
    given = parser.parse_args(["plan", "--architecture", name])
    assert plan_command.report(given).startswith(f"{name}, without a head")


@pytest.mark.parametrize(
    "main, command",
    [(keras_moe_command.main, "plan"), (conversion_command.main, "vmoe")],
)
def test_help_lists_the_names(main, command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(architectures.names()) in said


def test_an_unknown_name(capsys):
    code, said = ended(
        keras_moe_command.main, ["plan", "--architecture", "vit_x"], capsys
    )
    assert code == 1 and "'soft_moe_h14'" in said and "\n" not in said


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(zoo_command.COMMANDS, "train", interrupted)
    code, said = ended(zoo_command.main, ["train", RECIPE], capsys)
    assert code == 130
    assert said == (
        "interrupted; the same command resumes from the last saved epoch"
    )


def test_an_error_tells_no_credentials():
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

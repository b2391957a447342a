"""Every option of every command refuses nonsense by name, and is explained."""

import argparse
import pathlib
import re

import pytest

import keras_moe.__main__ as keras_moe_command
from conversion import __main__ as conversion_command
from keras_moe import commands
from zoo import __main__ as zoo_command

pytestmark = pytest.mark.once
PROGRAMS = (keras_moe_command, zoo_command, conversion_command)
NONSENSE = ("nan", "inf", "-inf", "1e999", "-1", "", "x", "1" * 400)


def subcommands(parser):
    """{name: parser} below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


COMMANDS = {
    (program.parser().prog, name): parser
    for program in PROGRAMS
    for name, parser in subcommands(program.parser()).items()
}
OPTIONS = [
    pytest.param(
        command,
        action.option_strings[-1],
        id=" ".join((*command, action.option_strings[-1])),
    )
    for command, parser in COMMANDS.items()
    for action in parser._actions
    if action.type not in (None, pathlib.Path)
]


def test_the_programs_have_numeric_options():
    assert len(OPTIONS) > 25
    flags = {option.values[1] for option in OPTIONS}
    wanted = {"--temperature", "--seed", "--epochs", "--tolerance", "--top-k"}
    assert wanted <= flags


@pytest.mark.parametrize("command, flag", OPTIONS)
def test_what_is_no_number(command, flag, capsys):
    for text in NONSENSE:
        with pytest.raises(SystemExit) as end:
            COMMANDS[command].parse_args([f"{flag}={text}"])
        said = capsys.readouterr().err
        assert end.value.code == 2, text
        assert f"error: argument {flag}: " in said, (text, said)
        assert "Traceback" not in said


@pytest.mark.parametrize("text", ["0GB", ".GB", "1TB", "9" * 400 + "GB"])
def test_sizes_of_memory(text, capsys):
    parser = COMMANDS["python -m keras_moe", "plan"]
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([f"--device-memory={text}"])
    assert "error: argument --device-memory: must be" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_every_option(command):
    parser = COMMANDS[command]
    shown = " ".join(parser.format_help().split())
    for action in parser._actions:
        named = action.option_strings or action.dest
        if isinstance(action, argparse._HelpAction):
            continue
        assert re.fullmatch(r"[A-Z].* .*\.", action.help), named
        if action.default not in (None, False, argparse.SUPPRESS):
            assert "default: " in action.help, f"{named}: the default"
        for choice in action.choices or ():
            assert str(choice) in shown, named


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_explains_every_command(program):
    (action,) = (
        action
        for action in program.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    explained = {one.dest: one.help for one in action._choices_actions}
    assert set(explained) == set(action.choices)
    for name, text in explained.items():
        assert re.fullmatch(r"[A-Z].* .*\.", text), name


@pytest.mark.parametrize(
    "reads, texts",
    [
        (commands.positive, {"3": 3, "2147483647": 2**31 - 1}),
        (commands.seed, {"0": 0, "7": 7}),
        (commands.positive_real, {"1e-3": 1e-3}),
        (commands.tolerance, {"0": 0.0, "2e-4": 2e-4}),
    ],
)
def test_numbers(reads, texts):
    for text, value in texts.items():
        assert reads(text) == value

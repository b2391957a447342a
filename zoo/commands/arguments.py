"""Arguments that several commands of `python -m zoo` have."""

import pathlib

from keras_moe.commands import seed


def add_name(command) -> None:
    command.add_argument("name", metavar="NAME", help="name of a recipe")


def add_runs(command) -> None:
    command.add_argument(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs"),
        help="folder of all runs (runs)",
    )


def add_seed(command) -> None:
    command.add_argument(
        "--seed", type=seed, default=0, help="seed of the run (0)"
    )


def add_data(command) -> None:
    command.add_argument(
        "--data", metavar="FOLDER", help="folder of the data set"
    )


def run_of(arguments) -> pathlib.Path:
    """Folder of the run that name, seed and folder of all runs tell."""
    return arguments.runs / arguments.name / f"seed-{arguments.seed}"

"""Arguments that several commands of `python -m zoo` have."""

import pathlib

from keras_moe.commands import seed


def add_name(command) -> None:
    command.add_argument(
        "name", metavar="NAME", help="Name of a recipe in zoo/recipes."
    )


def add_runs(command) -> None:
    command.add_argument(
        "--runs",
        type=pathlib.Path,
        metavar="FOLDER",
        default=pathlib.Path("runs"),
        help="Read and write runs below this folder (default: %(default)s).",
    )


def add_seed(command) -> None:
    command.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="Use the run with this random seed (default: %(default)s).",
    )


def add_data(command) -> None:
    command.add_argument(
        "--data",
        metavar="FOLDER",
        help="Use the data set in this folder (default: an installed package, "
        "or the user's caches).",
    )


def run_of(arguments) -> pathlib.Path:
    """Folder of the run that name, seed and folder of all runs tell."""
    return arguments.runs / arguments.name / f"seed-{arguments.seed}"

"""python -m zoo: list, train and evaluate presets."""

import argparse
import pathlib
import sys

from zoo import recipe as recipes


def parser():
    root = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the recipes")
    train = commands.add_parser("train", help="train a preset")
    train.add_argument("name", metavar="NAME")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    for command in (train,):
        command.add_argument(
            "--data", metavar="FOLDER", help="where the data set lies"
        )
        command.add_argument(
            "--runs",
            type=pathlib.Path,
            default=pathlib.Path("runs"),
            help="folder of all runs (runs)",
        )
    return root


def main(arguments=None):
    arguments = parser().parse_args(arguments)
    try:
        run(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


def run(arguments):
    if arguments.command == "list":
        for name in recipes.names():
            print(f"{name}: {recipes.load(name).title}")
        return
    from zoo import train

    recipe = recipes.load(arguments.name)
    folder = arguments.runs / recipe.name / f"seed-{arguments.seed}"
    train.train(
        recipe, folder, arguments.seed, arguments.data, arguments.epochs
    )
    print(f"Preset: {folder / 'preset'}")


if __name__ == "__main__":
    main()

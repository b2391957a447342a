"""python -m zoo: list, train and evaluate presets."""

import argparse
import pathlib
import statistics
import sys

from zoo import recipe as recipes
from zoo.data import DataError


def parser():
    root = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the recipes")
    train = commands.add_parser(
        "train", help="train a preset, or go on with a run broken off"
    )
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    evaluate = commands.add_parser(
        "evaluate", help="measure a trained preset on test data"
    )
    evaluate.add_argument(
        "--preset", help="name or folder, instead of that of the run"
    )
    for command in (train, evaluate):
        command.add_argument("name", metavar="NAME", help="of a recipe")
        command.add_argument("--seed", type=int, default=0)
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
    except (recipes.RecipeError, DataError) as error:
        sys.exit(f"error: {error}")


def run(arguments):
    if arguments.command == "list":
        for name in recipes.names():
            print(f"{name}: {recipes.load(name).title}")
        return
    recipe = recipes.load(arguments.name)
    runs = arguments.runs / recipe.name
    folder = runs / f"seed-{arguments.seed}"
    if arguments.command == "train":
        from zoo import train

        train.train(
            recipe, folder, arguments.seed, arguments.data, arguments.epochs
        )
        print(f"Preset: {folder / 'preset'}")
        return
    from zoo import evaluate

    given = arguments.preset
    result = evaluate.evaluate(
        recipe,
        given or folder / "preset",
        arguments.data,
        None if given else folder / "evaluation.json",
    )
    print(
        f"{result['test_accuracy']:.2%} of {result['test_images']:,} test "
        f"images, {result['parameters']:,} parameters"
    )
    seeds = evaluate.summary(runs)
    if not given and len(seeds) > 1:
        values = list(seeds.values())
        print(
            f"{len(seeds)} seeds: mean {statistics.mean(values):.2%}, "
            f"standard deviation {statistics.stdev(values):.2%}"
        )


if __name__ == "__main__":
    main()

"""Commands of `python -m zoo` for what is trained already."""

import argparse

from keras_moe import commands as running
from keras_moe import files
from zoo import recipe as recipes
from zoo.commands import arguments as shared


def options(text: str) -> dict:
    """The arguments of a router from JSON, for argparse."""
    try:
        value = files.parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be JSON; received {text!r}: {error}"
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"must be an object of JSON, {{...}}; received {text!r}"
        )
    return value


def add(commands) -> None:
    """Add the commands' parsers."""
    mixing = commands.add_parser(
        "mixing",
        help="Measure each inference_mixing of a Mixture of Tokens model.",
    )
    mixing.add_argument(
        "--preset",
        metavar="NAME_OR_FOLDER",
        help="Measure this preset (default: NAME).",
    )
    tune = commands.add_parser(
        "tune", help="Tune a Mixture of Tokens model for one inference_mixing."
    )
    tune.add_argument(
        "--mode",
        choices=("self", "argmax"),
        default="self",
        help="Tune for this inference_mixing: self or argmax (default: "
        "%(default)s).",
    )
    turn = commands.add_parser(
        "turn",
        help="Replace the router of a packaged preset and tune the model.",
    )
    turn.add_argument(
        "--router",
        choices=("expert_choice", "token_choice"),
        required=True,
        help="Use this router: expert_choice or token_choice.",
    )
    turn.add_argument(
        "--options",
        type=options,
        default={},
        metavar="JSON",
        help="Pass these arguments to the new router, as a JSON object "
        "(default: %(default)s).",
    )
    further = commands.add_parser(
        "further",
        help="Train the preset of a run further, with a lower learning rate "
        "and the changes that the recipe names.",
    )
    further.add_argument(
        "--epochs",
        type=running.positive,
        default=6,
        help="Train for this many further epochs (default: %(default)s).",
    )
    further.add_argument(
        "--preset",
        metavar="NAME_OR_FOLDER",
        help="Start from this preset (default: the one of the run).",
    )
    for command in (tune, turn):
        command.add_argument(
            "--steps",
            type=running.positive,
            default=200,
            help="Tune for this many steps (default: %(default)s).",
        )
    for command in (mixing, tune, turn, further):
        shared.add_name(command)
        shared.add_data(command)
    for command in (tune, turn, further):
        command.add_argument(
            "--learning-rate",
            type=running.positive_real,
            default=5e-4,
            metavar="RATE",
            help="Largest learning rate of the schedule (default: "
            "%(default)s).",
        )
        shared.add_seed(command)
        shared.add_runs(command)


def _mixture(name):
    recipe = recipes.load(name)
    if recipe.backbone.get("router") != "mixture_of_tokens":
        raise recipes.RecipeError(
            f"NAME must be a Mixture of Tokens; {recipe.name} is none."
        )
    return recipe


def _tune(arguments):
    from zoo.training import transition

    recipe = _mixture(arguments.name)
    tuned = transition.tune(
        recipe,
        shared.run_of(arguments),
        arguments.mode,
        arguments.steps,
        arguments.learning_rate,
        arguments.seed,
        arguments.data,
    )
    print(f"Preset: {tuned}")


def _further(arguments):
    from zoo.training import transition

    recipe = recipes.load(arguments.name)
    preset = transition.further(
        recipe,
        shared.run_of(arguments),
        arguments.epochs,
        arguments.learning_rate,
        arguments.seed,
        arguments.data,
        arguments.preset,
    )
    print(f"Preset: {preset}")


def _turn(arguments):
    from keras_moe.models.presets.manifest import write_json
    from zoo.measure import results
    from zoo.training import transition

    recipe = recipes.load(arguments.name)
    record = transition.turn(
        recipe,
        recipe.name,
        arguments.router,
        arguments.options,
        arguments.runs / recipe.name / f"turned-{arguments.router}",
        arguments.steps,
        arguments.learning_rate,
        seed=arguments.seed,
        data_folder=arguments.data,
    )
    write_json(
        results.path_of(f"turned_{recipe.name}_{arguments.router}"), record
    )
    print(
        f"{record['metric'].replace('_', ' ')}: {record['before']:.4f} before, "
        f"{record['turned']:.4f} turned, {record['tuned']:.4f} tuned"
    )


def _mixing(arguments):
    from keras_moe.models.presets.manifest import write_json
    from zoo.measure import mixing
    from zoo.measure import results

    recipe = _mixture(arguments.name)
    record = mixing.compare(
        recipe, arguments.preset or recipe.name, arguments.data
    )
    write_json(results.path_of(f"mixing_{recipe.name}"), record)
    for mode, row in record.items():
        print(
            f"{mode:<8} {row['bits_per_byte']:.3f} bits per byte, "
            f"{row['time']:.2f} times the time"
        )


COMMANDS = {
    "mixing": _mixing,
    "tune": _tune,
    "turn": _turn,
    "further": _further,
}

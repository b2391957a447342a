"""Commands of `python -m zoo` for cards, the table and the Hub."""

import pathlib
import sys

from zoo import recipe as recipes
from zoo.commands import arguments as shared
from zoo.publish.sources import SOURCES

NAME = "Name of a preset that `list` shows."


def add(commands) -> None:
    """Add the commands' parsers."""
    card = commands.add_parser("card", help="Print the model card of a preset.")
    card.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        help="Write the card and its picture to this folder instead.",
    )
    publish = commands.add_parser(
        "publish",
        help="Upload a preset and its card to the Hugging Face Hub, or show "
        "what would be uploaded.",
    )
    verify = commands.add_parser(
        "verify", help="Download a published preset and compare its files."
    )
    table = commands.add_parser(
        "table", help="Write zoo/README.md from the records."
    )
    table.add_argument(
        "--check",
        action="store_true",
        help="Write nothing; fail if the file is stale.",
    )
    build = commands.add_parser(
        "build",
        help="Download a published checkpoint and convert it to a preset.",
    )
    build.add_argument("name", metavar="NAME", help=NAME)
    build.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        help="Write the preset to this folder (default: NAME).",
    )
    for command in (card, publish, verify):
        command.add_argument("name", metavar="NAME", help=NAME)
        command.add_argument(
            "--repo",
            metavar="ORGANISATION/NAME",
            required=command is not card,
            help="Name of the repository on the Hugging Face Hub.",
        )
    for command in (card, publish, verify):
        command.add_argument(
            "--preset",
            metavar="FOLDER",
            type=pathlib.Path,
            help="Use the preset in this folder (default: the one in the "
            "package).",
        )
    shared.add_data(publish)
    publish.add_argument(
        "--yes",
        action="store_true",
        help="Upload in one commit; without this, only show the upload.",
    )
    publish.add_argument(
        "--replace",
        action="store_true",
        help="Replace another model in the repository.",
    )


def _card(arguments):
    from keras_moe.models.presets.manifest import write_bytes
    from keras_moe.models.presets.manifest import write_text
    from zoo.publish import card as cards
    from zoo.publish import picture

    recipe = recipes.load(arguments.name)
    text = cards.of(recipe, arguments.repo)
    if arguments.out is None:
        print(text)
        return
    drawn = picture.draw(recipe, _folder(arguments))
    write_text(arguments.out / "README.md", text)
    if drawn is not None:
        write_bytes(arguments.out / picture.NAME, drawn)
    print(f"Card: {arguments.out / 'README.md'}")


def _folder(arguments):
    from keras_moe.models.presets import catalogue
    from zoo.measure import results

    if arguments.preset:
        return arguments.preset
    if arguments.name not in catalogue.embedded():
        raise results.ResultError(
            f"{arguments.name} does not ship with the package; give the "
            "folder of its preset: --preset FOLDER."
        )
    return catalogue.FOLDER / arguments.name


def _publish(arguments):
    from zoo.measure import results
    from zoo.publish import card as cards
    from zoo.publish import hub
    from zoo.publish import picture
    from zoo.publish import source_card
    from zoo.publish import table

    name, repo = arguments.name, arguments.repo
    source = SOURCES.get(name)
    recipe = None if source else recipes.load(name)
    folder = _folder(arguments)
    if source:
        hub.check_whole(folder)
        card, drawn = source_card.render(source, folder, repo), None
    else:
        card = cards.of(recipe, repo)
        hub.check(
            recipe, results.load(name), folder, data_folder=arguments.data
        )
        drawn = picture.draw(recipe, folder)
    plan = hub.plan(name, folder, repo, card, arguments.replace, drawn)
    print(f"{card}\n{plan}")
    if not arguments.yes:
        print("Nothing was uploaded; --yes uploads.")
        return
    commit = hub.upload(plan, f"Add {name}")
    print(f"Commit: {commit}" if commit else "It is there already.")
    table.note_published(name, repo)


def _verify(arguments):
    from zoo.publish import hub
    from zoo.publish import source_card
    from zoo.tasks import task_of

    if arguments.name in SOURCES:
        model = source_card.KINDS[SOURCES[arguments.name].format][0]
    else:
        model = task_of(recipes.load(arguments.name)).model_class
    print(hub.verify(model, _folder(arguments), arguments.repo))


def _table(arguments):
    from zoo.publish import table

    if not arguments.check:
        table.write()
    elif not table.is_current():
        sys.exit(f"{table.PATH} is stale; run `python -m zoo table`.")


def _build(arguments):
    from zoo.publish.build import build

    if arguments.name not in SOURCES:
        raise recipes.RecipeError(
            f"NAME must be one of {', '.join(SOURCES)}; received "
            f"{arguments.name!r}."
        )
    source = SOURCES[arguments.name]
    build(source, arguments.out or arguments.name)


def list_all(arguments) -> None:
    """Print every preset, and where it is or what it is made of."""
    from keras_moe.models.presets import catalogue

    embedded = catalogue.embedded()
    for name in recipes.names():
        place = "in the package" if name in embedded else "to be trained"
        print(f"{name}: {recipes.load(name).title} ({place})")
    for source in SOURCES.values():
        print(f"{source.name}: {source.title} (from {source.address})")


COMMANDS = {
    "list": list_all,
    "build": _build,
    "card": _card,
    "publish": _publish,
    "verify": _verify,
    "table": _table,
}

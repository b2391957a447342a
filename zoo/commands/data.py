"""Commands of `python -m zoo` that make and measure data sets."""

from zoo.commands import arguments as shared


def add(commands) -> None:
    """Add the commands to a parser."""
    made = commands.add_parser(
        "data", help="Make the file of a data set from packages."
    )
    made.add_argument(
        "data_set",
        metavar="NAME",
        choices=("emoji", "domains"),
        help="Make this data set, emoji or domains.",
    )
    made.add_argument(
        "--size",
        type=int,
        default=64,
        choices=(32, 48, 64),
        help="Render drawings with this many pixels a side (default: "
        "%(default)s, which recipes read).",
    )
    made.add_argument(
        "--samples",
        action="store_true",
        help="Write the drawings that ship with the package, too.",
    )
    nearest = commands.add_parser(
        "nearest",
        help="Measure how well the pixels of emoji tell their names.",
    )
    for command in (made, nearest):
        shared.add_data(command)


def _data(arguments):
    from zoo.data import domains
    from zoo.data import emoji

    if arguments.data_set == domains.DOMAINS:
        print(domains.build(arguments.data))
        return
    print(emoji.build(arguments.data, arguments.size))
    if arguments.samples:
        print(emoji.write_samples(arguments.data))


def _nearest(arguments):
    from keras_moe.models.presets.manifest import write_json
    from zoo.measure import nearest
    from zoo.measure import results
    from zoo.publish import table

    found = nearest.compare(arguments.data)
    write_json(results.path_of(nearest.NAME), found)
    table.write()
    print(
        f"recall@1 {found['recall_at_1']:.4f}, recall@5 "
        f"{found['recall_at_5']:.4f}"
    )


COMMANDS = {"data": _data, "nearest": _nearest}

"""The table of presets in `zoo/README.md`, from what is on record."""

import pathlib

from keras_moe.models import presets
from keras_moe.models.manifest import write_text
from zoo import card as cards
from zoo import compare
from zoo import recipe as recipes
from zoo import results
from zoo.sources import SOURCES
from zoo.train import task_of

PATH = pathlib.Path(__file__).parent / "README.md"
TEXT = """\
# The zoo

Written by `python -m zoo table` from the recipes in `zoo/recipes`, what was
measured of them, in `zoo/results`, and `zoo/sources.py`; do not edit it by
hand.

## Trained here

{trained}

Figures are of test data that was not trained on, as mean ± standard deviation
of the seeds. "Preset" is the model that ships with the package, in half
precision: `from_preset("NAME")`.

`python -m zoo card NAME` renders its model card. `python -m zoo publish NAME
--repo ORGANISATION/NAME` measures the preset again, holds it to the record and
shows what the repository would get; with `--yes` it uploads card and files in
one commit. `python -m zoo verify NAME --repo ORGANISATION/NAME` loads it back.

{comparisons}## From checkpoints of others

{sources}

`python -m zoo build NAME` fetches the checkpoint, converts it (with the extra
`conversion`), and writes nothing unless it has exactly these parameters. It is
published like the others, with `--preset NAME` for the folder.
"""
COMPARISONS = """\
## Beside their dense twins

{table}

Same recipe, data and steps; the twin's depth or width is chosen for an equal
step time. At equal steps: mean ± standard deviation of the seeds, on test
data. At equal time: what validation data says when the faster one is through.
Margins are positive where the mixture of experts is better.

"""
HEAD_OF_COMPARISONS = (
    "name",
    "step time",
    "metric",
    "equal steps",
    "its twin",
    "margin",
    "margin at equal time",
)
HEAD = ("name", "what it is", "parameters", "metric", "seeds", "figure")
HEAD_OF_SOURCES = ("name", "what it is", "parameters", "licence", "source")


def render() -> str:
    """The whole text of `zoo/README.md`."""
    trained = [_row(recipes.load(name)) for name in recipes.names()]
    sources = [
        (
            f"`{source.name}`",
            source.title,
            f"{source.parameters:,}",
            source.licence,
            f"`{source.address}`",
        )
        for source in SOURCES.values()
    ]
    return TEXT.format(
        comparisons=_comparisons(),
        trained=_markdown((*HEAD, "preset"), trained),
        sources=_markdown(HEAD_OF_SOURCES, sources),
    )


def write() -> bool:
    """Write the table, whole or not at all; returns whether it changed."""
    if is_current():
        return False
    write_text(PATH, render())
    return True


def is_current() -> bool:
    """Whether the file is what would be written."""
    return PATH.is_file() and PATH.read_text() == render()


def _comparisons():
    compared = (recipes.load(name) for name in recipes.names())
    found = [results.load(compare.name_of(one)) for one in compared]
    found = [one for one in found if one is not None]
    if not found:
        return ""
    rows = [
        (
            f"`{one['recipe']}`",
            f"{one['step_time_ratio']:.2f}",
            task_of(recipes.load(one["recipe"])).METRIC_TITLE,
            cards.spread(one["equal_steps"]),
            cards.spread(one["equal_steps"], "twin_"),
            f"{one['equal_steps']['margin']:+.4f}",
            f"{one['equal_time']['margin']:+.4f}",
        )
        for one in found
    ]
    text = COMPARISONS.format(table=_markdown(HEAD_OF_COMPARISONS, rows))
    pictures = (
        f"![Validation curves of {one['recipe']} and its twin]"
        f"(figures/{one['recipe']}.png)\n\n"
        for one in found
    )
    return text + "".join(pictures)


def _markdown(head, rows):
    rows = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(recipe):
    record = results.load(recipe.name)
    if record is None:
        return (f"`{recipe.name}`", recipe.title, "not measured", *["–"] * 4)
    preset = record.get("preset")
    ships = "none"
    if preset and recipe.name in presets.list_presets():
        figure = preset[record["metric"]]
        ships = f"{figure:.4f}, {preset['bytes'] / 1e6:.1f} MB"
    return (
        f"`{recipe.name}`",
        recipe.title,
        f"{record['parameters']:,}",
        task_of(recipe).METRIC_TITLE,
        str(len(record["seeds"])),
        cards.spread(record),
        ships,
    )

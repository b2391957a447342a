"""The lists of presets, from what is on record.

A table for readers, `zoo/README.md`, and what
`keras_moe.models.list_presets()` gives, `keras_moe/presets/catalogue.json`.
"""

import json
import pathlib

import zoo
from keras_moe.models.presets import catalogue
from keras_moe.models.presets import hub
from keras_moe.models.presets import manifest
from keras_moe.models.presets.manifest import write_text
from zoo import recipe as recipes
from zoo.measure import compare
from zoo.measure import results
from zoo.publish import card as cards
from zoo.publish import drawings
from zoo.publish import languages
from zoo.publish import source_card
from zoo.publish.sources import SOURCES
from zoo.tasks import task_of
from zoo.training import variants

PATH = pathlib.Path(zoo.__file__).parent / "README.md"
CATALOGUE = catalogue.PATH
HUB = "hub"  # the record of what was published: {name: "organisation/name"}
TEXT = """\
# The zoo

`python -m zoo table` writes this page from the recipes in `zoo/recipes`, the
records in `zoo/results` and `zoo/publish/sources.py`. Do not edit it by hand.

## Trained here

{trained}

Figures are means ± standard deviations over the seeds, on test data. "Preset"
is the figure and the size of the model that comes with the package, in half
precision: `from_preset("NAME")`.

`python -m zoo card NAME` prints the model card of a preset. `python -m zoo
publish NAME --repo ORGANISATION/NAME` measures the preset again, compares the
result with the record and shows the files for the repository. With `--yes` it
uploads card, picture and files in one commit and adds the repository to this
page. `python -m zoo verify NAME --repo ORGANISATION/NAME` downloads the preset
and compares it.

{drawings}{languages}{comparisons}## From checkpoints of others

{sources}

`python -m zoo build NAME` downloads a checkpoint and converts it (with the
extra `conversion`). It writes a preset only if the model has exactly this
number of parameters. To publish it, give its folder: `--preset NAME`.
"""
COMPARISONS = """\
## Comparison with dense twins

{table}

A model and its twin have the same recipe, data and steps. The depth or width of
the twin gives it about the same step time. Step time and FLOPs (of a forward
pass) are multiples of the twin's. Figures at equal steps are means ± standard
deviations over the seeds, on test data. The margin at equal time is that on
validation data when the faster model has finished. Positive margins mean that
the mixture of experts is better.

"""
REASONS = """\
{winners} mixture of experts that was trained with several seeds is better than
its twin at equal time by more than their spread.

The tiny image classifiers have a hidden dimension of 64, and are trained for
few steps: in its last epoch Soft MoE is as accurate on validation images as on
training images (0.902 and 0.904, seed 2). So more parameters have nothing more
to fit yet. Six further epochs bring the preset to {further}. The narrow ones
have a hidden dimension of 24 and lack parameters. There Soft MoE is better than
the dense twin. The margins of Expert Choice, at equal steps and at equal time,
are less than twice the spread of the seeds.

The language models of plays have little text to learn from. Smaller models with
other routers were trained for 3,000 steps of 32 texts, with experts that cost
what the dense MLPs cost (`python -m zoo variants mot_tiny_shakespeare`, one
seed):

{variants}

Groups of 8 with learned temperatures come nearest to the dense model: they fit
the training text as well as it does, but not the held-out play. The full-size
model does not gain from them either. With temperatures learned from .3 and .5
instead of 1, the validation text takes 2.538 and 2.526 bits per byte (one seed
each). The recipe itself takes 2.518 and 2.504 (two seeds), its dense twin 2.465
and 2.475.

"""
WINNERS = """\
Better than its twin at equal time, by more than twice the spread of the seeds:
{names}.

No other"""
HEAD_OF_COMPARISONS = (
    "name",
    "step time",
    "FLOPs",
    "metric",
    "equal steps",
    "its twin",
    "margin",
    "margin at equal time",
)
HEAD = ("name", "what it is", "parameters", "metric", "seeds", "figure")
HEAD_OF_SOURCES = ("name", "what it is", "parameters", "licence", "preset")


def render() -> str:
    """The whole text of `zoo/README.md`."""
    trained = [_row(recipes.load(name)) for name in recipes.names()]
    sources = [
        (
            f"`{source.name}`",
            source.title,
            f"{source.parameters:,}",
            source.licence,
            "; ".join(_places(source.name, f"made of `{source.address}`")),
        )
        for source in SOURCES.values()
    ]
    return TEXT.format(
        drawings=drawings.render(_markdown),
        languages=languages.render(_markdown),
        comparisons=_comparisons(),
        trained=_markdown((*HEAD, "preset"), trained),
        sources=_markdown(HEAD_OF_SOURCES, sources),
    )


def render_catalogue() -> str:
    """The text of `catalogue.json`: what there is and where it lives."""
    entries = {}
    for name in recipes.names():
        recipe, record = recipes.load(name), results.load(name)
        places = _where(name, embedded=name)
        if name not in catalogue.embedded():
            del places["embedded"]
        if record and places:  # others are yet to be trained
            entries[name] = _entry(
                recipe.title,
                record["parameters"],
                cards.LICENCE,
                task_of(recipe).model_class,
                places,
            )
    for source in SOURCES.values():
        entries[source.name] = _entry(
            source.title,
            source.parameters,
            source.licence,
            source_card.KINDS[source.format][0],
            _where(source.name, convertible=source.address),
        )
    return json.dumps(entries, indent=2) + "\n"


def published() -> dict[str, str]:
    """{name: "organisation/name"} of what is on the Hub."""
    return results.load(HUB) or {}


def note_published(name, repo) -> None:
    """Record the repository that a preset was published to."""
    noted = dict(sorted({**published(), name: repo}.items()))
    manifest.write_json(results.path_of(HUB), noted)
    write()


def write() -> bool:
    """Write both lists, each whole or not at all; tells if one changed."""
    stale = _stale()
    for path, text in stale.items():
        write_text(path, text)
    return bool(stale)


def is_current() -> bool:
    """Whether the files are what would be written."""
    return not _stale()


def _stale():
    """{path: text} of the files that are not what they should be."""
    contents = {PATH: render(), CATALOGUE: render_catalogue()}
    return {
        path: text
        for path, text in contents.items()
        if not path.is_file() or path.read_text() != text
    }


def _entry(title, parameters, licence, model, places):
    return {
        "metadata": {
            "description": title,
            "params": parameters,
            "licence": licence,
        },
        "model": model.__name__,
        "backbone": model.backbone_cls.__name__,
        "places": places,
    }


def _where(name, **places):
    """Places of a preset, with the Hub's."""
    repo = published().get(name)
    return {**places, "hub": hub.SCHEME + repo} if repo else places


def _places(name, *others):
    """Places of a preset, as the table shows them."""
    handle = _where(name).get("hub")
    return [*others, f"`{handle}`"] if handle else list(others)


def _comparisons():
    compared = (recipes.load(name) for name in recipes.names())
    records = [results.load(compare.name_of(one)) for one in compared]
    records = [one for one in records if one is not None]
    if not records:
        return ""
    rows = [
        (
            f"`{one['recipe']}`",
            f"{one['step_time_ratio']:.2f}",
            f"{one['flops'] / one['twin_flops']:.2f}",
            task_of(recipes.load(one["recipe"])).metric_title,
            cards.spread(one["equal_steps"]),
            cards.spread(one["equal_steps"], "twin_"),
            f"{one['equal_steps']['margin']:+.4f}",
            f"{one['equal_time']['margin']:+.4f}",
        )
        for one in records
    ]
    text = COMPARISONS.format(table=_markdown(HEAD_OF_COMPARISONS, rows))
    pictures = (
        f"![Validation curves of {one['recipe']} and its twin]"
        f"(figures/{one['recipe']}.png)\n\n"
        for one in records
    )
    return text + "".join(pictures) + reasons()


def reasons() -> str:
    """Why most mixtures do not beat their twins, as far as is known."""
    soft = results.load("soft_moe_vit_tiny_fashion_mnist")
    tried = results.load(variants.name_of(recipes.load("mot_tiny_shakespeare")))
    if soft is None or tried is None:
        return ""
    return REASONS.format(
        winners=_winners(compare.winners()),
        further=f"{soft['preset']['accuracy']:.4f}",
        variants=_markdown(variants.HEAD, variants.rows(tried)),
    )


def _winners(names):
    quoted = ", ".join(f"`{name}`" for name in names)
    return WINNERS.format(names=quoted) if names else "No"


def _markdown(head, rows):
    rows = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(recipe):
    record = results.load(recipe.name)
    if record is None:
        return (f"`{recipe.name}`", recipe.title, "not measured", *["–"] * 4)
    preset = record.get("preset")
    ships = []
    if preset and recipe.name in catalogue.embedded():
        figure = preset[record["metric"]]
        ships = [f"{figure:.4f}, {preset['bytes'] / 1e6:.1f} MB"]
    return (
        f"`{recipe.name}`",
        recipe.title,
        f"{record['parameters']:,}",
        task_of(recipe).metric_title,
        str(len(record["seeds"])),
        cards.spread(record),
        "; ".join(_places(recipe.name, *ships)) or "none",
    )

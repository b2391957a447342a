"""Figures of the two towers that name drawings, as a text."""

import statistics

from zoo import recipe as recipes
from zoo.measure import compare
from zoo.measure import nearest
from zoo.measure import results
from zoo.publish import card as cards
from zoo.training import pair_variants
from zoo.training import variants

RECIPE = "soft_moe_two_tower_tiny_emoji"
TEXT = """\
## Drawings and their names

`python -m zoo data emoji` renders emoji in six styles, without skin tones. The
two towers are trained on {drawings:,} drawings of four of them. Twemoji is held
out: {images:,} of its drawings have names that occur in the training, which has
{names:,} to choose from. Recipes are chosen by the style fxemoji. A tenth of
the names is held out in all styles, {new} of them in Twemoji: the towers know
most of their words, but saw no such drawing.

{table}

The pixels of drawings of one thing are alike in many styles, so the most
similar training drawing tells many names. After the {steps:,} steps of the
recipe the towers are worse at the first guess than that: {recall:.4f}. After
{further:,} further steps, the preset is better. In them, {phrased:.0%} of
the captions begin with a phrase such as "a picture of a". Before these steps,
recall@1 of names that are new was {new_names:.4f}.

"""
LONGER = """\
The towers and their dense twin were also trained for {steps:,} further steps by
`python -m zoo further`, with the same phrases:

{table}

At equal steps, recall@1 of Soft MoE differs from the twin's by {margin:+.4f}.
That is {relation} than twice the spread of the seeds.

"""
NUMBERS = """\
Fewer experts were trained like the recipe, with {slots} slots in all, so that
the experts multiply as many numbers (one seed each, by
`python -m zoo variants {recipe}`):

{table}

A model with fewer experts is no worse: all figures of recall@1 lie within two
standard deviations of the mean of the recipe's seeds. So the towers do not gain
from the parameters of more experts at equal cost, in a training of this length.
More than 16 experts were not trained: an expert has one slot at least, so they
cost more.

"""
HEAD_OF_NUMBERS = (
    "experts",
    "parameters",
    "FLOPs",
    "recall@1",
    "recall@5",
    "seeds",
)


def render(markdown) -> str:
    """The section of the zoo's page, empty where nothing is on record.

    Args:
        markdown: function of the head and the rows of a table.
    """
    record, pixels = results.load(RECIPE), results.load(nearest.NAME)
    preset = record["preset"] if record else None
    if pixels is None or not preset or not preset["further"]:
        return ""
    trained = record["training"][str(preset["seed"])]
    rows = [
        (what, *(f"{one[f'{kind}recall_at_{k}']:.4f}" for k in (1, 5)))
        for what, one, kind in (
            ("names of drawings, the preset", preset, ""),
            ("the same, by the most similar pixels", pixels, ""),
            ("drawings by their names, the preset", preset, "search_"),
            ("names that are new, among themselves", preset, "new_names_"),
        )
    ]
    return TEXT.format(
        images=record["test_examples"],
        names=pixels["names"],
        new=pixels["new_names"],
        steps=trained["steps"],
        further=preset["further"]["steps"],
        recall=record["seeds"][str(preset["seed"])],
        phrased=preset["further"]["changes"]["phrased"],
        new_names=record["more"][str(preset["seed"])]["new_names_recall_at_1"],
        drawings=pixels["training_drawings"],
        table=markdown(("", "recall@1", "recall@5"), rows),
    ) + "".join(part(record, markdown) for part in (longer, numbers_of_experts))


def longer(record, markdown) -> str:
    """Part of the section about further training of towers and twin."""
    recipe = recipes.load(RECIPE)
    both = {RECIPE: record, recipe.twin: results.load(recipe.twin)}
    if not all(one and "further" in one for one in both.values()):
        return ""
    found = {name: one["further"] for name, one in both.items()}
    if min(len(one["seeds"]) for one in found.values()) < 2:
        return ""
    rows = [
        (
            f"`{name}`",
            cards.spread(one),
            spread_of_fives(one),
            str(len(one["seeds"])),
        )
        for name, one in found.items()
    ]
    ours, twin = found.values()
    margin = ours["mean"] - twin["mean"]
    spread = max(one["standard_deviation"] for one in found.values())
    return LONGER.format(
        steps=next(iter(ours["training"].values()))["steps"],
        table=markdown(("", "recall@1", "recall@5", "seeds"), rows),
        margin=margin,
        relation="more" if abs(margin) > 2 * spread else "less",
    )


def spread_of_fives(record) -> str:
    """Mean and standard deviation of recall@5 over the seeds of a record."""
    fives = [one["recall_at_5"] for one in record["more"].values()]
    return f"{statistics.mean(fives):.4f} ± {statistics.stdev(fives):.4f}"


def numbers_of_experts(record, markdown) -> str:
    """Part of the section about other numbers of experts."""
    recipe = recipes.load(RECIPE)
    tried = results.load(variants.name_of(recipe))
    compared = results.load(compare.name_of(recipe))
    if tried is None or compared is None:
        return ""
    rows = [
        (
            name,
            f"{one['parameters']:,}",
            f"{one['flops'] / compared['flops']:.2f}",
            f"{one['recall_at_1']:.4f}",
            f"{one['recall_at_5']:.4f}",
            "1",
        )
        for name, one in tried.items()
    ]
    own = (
        pair_variants.title(recipe.backbone["router_options"]["num_experts"]),
        f"{record['parameters']:,}",
        "1.00",
        cards.spread(record),
        spread_of_fives(record),
        str(len(record["seeds"])),
    )
    return NUMBERS.format(
        recipe=RECIPE,
        slots=pair_variants.SLOTS,
        table=markdown(HEAD_OF_NUMBERS, [*rows, own]),
    )

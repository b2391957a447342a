"""Figures of the language models of several domains, as a text."""

import statistics

from zoo import recipe as recipes
from zoo.measure import compare
from zoo.measure import results
from zoo.publish import card as cards
from zoo.training import variants

RECIPE = "moe_lm_tiny_domains"
WIDE = "gpt_tiny_domains_wide"
TEXT = """\
## Text of seven domains

`python -m zoo data domains` reads plays, a dictionary, manual pages in four
languages and Python's documentation from packages of Debian and PyPI. Whole
documents are held out. A step reads {window:,} bytes, of all domains alike.
Figures are bits per byte on test data, means over {seeds}.

{domains}

The next table has bits per byte on validation data after equal numbers of
steps. A step of token choice takes {ratio:.2f} of the time of its twin's, with
JAX on two cores of a CPU. A training reads {read:.1f} MB of text. The learning
rate of all models, {rate:g}, was chosen in short trainings of token choice and
of the wider dense model below.

{curve}

A wider dense model, with MLPs of {width}, has {wide} on test data.
Token choice is better by {lead:.4f}.

"""
VARIANTS = """\
Other numbers of experts and other routers were trained for as many steps (one
seed each, by `python -m zoo variants {recipe}`). For a token, their
experts multiply as many numbers as the dense MLP of 256, those of Expert Choice
on average:

{table}

The recipe, 2 of 16 experts, has {least:.4f} to {most:.4f} on validation data
({count} seeds). So a model of these texts gains from more experts, up to 32.
64 experts of half the size, about as many parameters, are no better.
The models fit training and validation texts about equally: parameters are what
they lack. Expert Choice by thresholds is as good as token choice with as many
experts. Mixture of Tokens gains little: more text alone does not make its
experts help.

"""


def render(markdown) -> str:
    """The section of the zoo's page, empty where nothing is on record.

    Args:
        markdown: function of the head and the rows of a table.
    """
    recipe = recipes.load(RECIPE)
    record, twin = results.load(RECIPE), results.load(recipe.twin)
    compared = results.load(compare.name_of(recipe))
    wide = results.load(WIDE)
    if None in (record, twin, compared, wide):
        return ""
    ours, theirs = (_means(one["domains"]) for one in (record, twin))
    rows = [
        (name, *_row(ours[name], theirs[name]))
        for name in sorted(ours, key=lambda name: ours[name] - theirs[name])
    ]
    rows.append(("mean", *_row(record["mean"], twin["mean"])))
    curves = [
        [statistics.mean(values) for values in zip(*seeds.values())]
        for seeds in compared["validation"].values()
    ]
    steps = recipe.steps_per_epoch
    points = [
        (f"{steps * number:,}", *_row(*pair))
        for number, pair in enumerate(zip(*curves), 1)
    ]
    head = ("token choice", "dense twin", "margin")
    count = len(record["seeds"])
    return TEXT.format(
        window=recipe.batch_size * recipe.sequence_length,
        read=recipe.batch_size
        * recipe.sequence_length
        * steps
        * recipe.epochs
        / 1e6,
        seeds=f"{count} seeds" if count > 1 else "one seed",
        ratio=compared["step_time_ratio"],
        rate=recipe.learning_rate,
        width=recipes.load(WIDE).backbone["mlp_dim"],
        wide=cards.spread(wide),
        lead=wide["mean"] - record["mean"],
        domains=markdown(("domain", *head), rows),
        curve=markdown(("steps", *head), points),
    ) + others(recipe, compared, markdown)


def others(recipe, compared, markdown) -> str:
    """The part about other routers, empty where they are not on record."""
    tried = results.load(variants.name_of(recipe))
    if tried is None:
        return ""
    last = [curve[-1] for curve in compared["validation"][RECIPE].values()]
    return VARIANTS.format(
        recipe=RECIPE,
        table=markdown(variants.HEAD, variants.rows(tried)),
        least=min(last),
        most=max(last),
        count=len(last),
    )


def _means(seeds):
    """{domain: mean} of {seed: {domain: figure}}."""
    found = list(seeds.values())
    return {
        name: statistics.mean(one[name] for one in found) for name in found[0]
    }


def _row(ours, theirs):
    return f"{ours:.4f}", f"{theirs:.4f}", f"{theirs - ours:+.4f}"

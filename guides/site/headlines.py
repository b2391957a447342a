"""The three plots at the top of the page of benchmarks, a tab per backend."""

import dataclasses
import pathlib
from collections.abc import Callable

import benchmarks
import drawing
import matplotlib
from drawing import COLOURS
from matplotlib.figure import Figure

BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
MODES = {"F": "forward pass", "FB": "forward and backward pass"}


@dataclasses.dataclass(frozen=True)
class Headline:
    """A plot of some rows of a table.

    Args:
        name: file name of the picture, without the backend.
        title: heading on the page.
        text: sentence below the heading.
        table: first part of the names of the tables.
        column: values to draw.
        label: of the axis.
        names: {competitor in the column `of`: words}; others are left out.
        group: words for the size and mode of a row, or `None` to leave it out.
        log: whether the axis is logarithmic.
    """

    name: str
    title: str
    text: str
    table: str
    column: str
    label: str
    names: dict[str, str]
    group: Callable[[dict], str | None]
    log: bool = False


def _token_choice_group(row):
    tokens = f"{int(row['tokens']):,}"
    return f"{row['batch']} × {tokens} tokens, {MODES[row['mode']]}"


def _dropless_group(row):
    if (row["tokens"], row["mode"]) not in (
        ("1", "F"),
        ("1024", "F"),
        ("1024", "FB"),
    ):
        return None
    number = int(row["tokens"])
    tokens = f"{number:,} tokens" if number > 1 else "1 token"
    return (
        f"{row['top_k']} of {row['experts']} experts, {tokens}, "
        f"{MODES[row['mode']]}"
    )


def _memory_group(row):
    if row["tokens"] != "16384":
        return None
    return f"16,384 tokens and slots, {MODES[row['mode']]}"


HEADLINES = (
    Headline(
        "token_choice",
        "Token choice with a capacity",
        "Time of a layer with 32 experts and two experts a token, as a "
        "multiple of KerasHub's Mixtral block. That block computes every "
        "expert for every token and drops none; a layer with a capacity drops "
        "tokens.",
        "token_choice_layers",
        "/KerasHub",
        "time, KerasHub's block = 1",
        {
            "KerasHub": "KerasHub, every expert",
            "capacity 1": "TokenChoiceMoE, capacity factor 1",
            "capacity 2": "TokenChoiceMoE, capacity factor 2",
        },
        _token_choice_group,
    ),
    Headline(
        "dropless",
        "Token choice without dropped tokens",
        "Time of a layer as a multiple of one dense MLP with the size of "
        "`top_k` experts, on a logarithmic axis.",
        "grouped",
        "/dense MLP",
        "time, dense MLP = 1",
        {
            "KerasHub": "KerasHub, every expert",
            "dropless": "TokenChoiceMoE(capacity_factor=None)",
        },
        _dropless_group,
        log=True,
    ),
    Headline(
        "memory",
        "Memory of Soft MoE's routing",
        "Peak memory beyond the inputs, without the experts.",
        "soft_routing_memory",
        "peak_extra_mib",
        "memory, MiB",
        {
            "reference": "plain formulas",
            "shared_exp": "one exponential for both softmaxes",
            "streaming": "streaming, no (tokens × slots) array",
        },
        _memory_group,
    ),
)


def bars(headline: Headline, rows: list[dict]) -> dict:
    """{group: {words of a competitor: value}} of the rows to draw."""
    groups = {}
    for row in rows:
        group = headline.group(row)
        if group and row["of"] in headline.names and row[headline.column]:
            name = headline.names[row["of"]]
            value = float(row[headline.column])
            groups.setdefault(group, {})[name] = value
    return groups


def picture(headline: Headline, rows: list[dict]) -> str:
    """An SVG with a bar for each competitor of each group."""
    groups = bars(headline, rows)
    number = sum(len(group) for group in groups.values())
    with matplotlib.rc_context(drawing.STYLE):
        height = 0.9 + 0.22 * number + 0.42 * len(groups)
        figure = Figure(figsize=(5.2, height), layout="constrained")
        axis = figure.subplots()
        place = 0.0
        for group, values in groups.items():
            axis.text(
                0.01,
                place,
                group,
                va="center",
                transform=axis.get_yaxis_transform(),
                fontsize=9,
                weight="bold",
            )
            place += 1
            for index, name in enumerate(headline.names.values()):
                if name in values:
                    value = values[name]
                    axis.barh(place, value, color=COLOURS[index])
                    text = f" {value:.2f}" if value < 10 else f" {value:,.0f}"
                    axis.text(value, place, text, va="center")
                    place += 1
            place += 0.4
        axis.set_ylim(place - 0.6, -0.8)
        axis.set_yticks([])
        if headline.log:
            axis.set_xscale("log")
            axis.set_xlim(left=0.5)
        axis.margins(x=0.15)
        axis.set_xlabel(headline.label)
        axis.spines[["top", "right", "left"]].set_visible(False)
        handles = [
            matplotlib.patches.Patch(color=COLOURS[index], label=name)
            for index, name in enumerate(headline.names.values())
        ]
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=1,
            frameon=False,
        )
        return drawing.svg(figure)


def _tables(headline, folder):
    """{backend: rows} of the tables of a headline."""
    return {
        backend: benchmarks.read(path)
        for backend in BACKENDS
        for path in sorted(folder.glob(f"{headline.table}-{backend}-*.csv"))
    }


def pictures(folder: pathlib.Path) -> dict[str, str]:
    """The pictures by their paths in the site."""
    return {
        f"benchmarks/headline_{headline.name}_{backend}.svg": picture(
            headline, rows
        )
        for headline in HEADLINES
        for backend, rows in _tables(headline, folder).items()
    }


def markdown(folder: pathlib.Path) -> str:
    """A heading, a sentence and tabs of pictures for each headline."""
    lines = []
    for headline in HEADLINES:
        lines += [f"## {headline.title}", headline.text]
        for backend in _tables(headline, folder):
            name = f"benchmarks/headline_{headline.name}_{backend}.svg"
            lines.append(
                f'=== "{BACKENDS[backend]}"\n\n    ![{headline.title}, '
                f"{BACKENDS[backend]}]({name})"
            )
    return "\n\n".join(lines)

"""The tables of tests/benchmarks/results as a page with plots.

A table may have columns of ratios, named `this/that` (two timed columns beside
it) or `/that` (the column `of` says of whom); the spread of the only one may be
in `smallest` and `largest`. What stands before is what was measured: `op`,
`mode` and sizes. A table without ratios is shown as it is.
"""

import csv
import functools
import pathlib
import re

import curves
import drawing
import matplotlib
from drawing import COLOURS
from drawing import MODES
from matplotlib.figure import Figure

SPREAD = ("smallest", "largest")


def read(path: pathlib.Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ratio_columns(rows: list[dict]) -> list[str]:
    """The names of the columns of ratios."""
    return [name for name in rows[0] if "/" in name]


def sizes(rows: list[dict]) -> list[str]:
    """The columns of what was measured that differ between rows."""
    names = list(rows[0])
    measured = names[: names.index("of")] if "of" in names else names
    return [
        name
        for name in measured
        if name not in ("op", "mode", "dtype", *SPREAD)
        and "/" not in name
        and not name.endswith("_s")
        and len({row[name] for row in rows}) > 1
    ]


def bars(rows: list[dict], column: str) -> list[tuple]:
    """What to draw: (label, whose, ratio, smallest, largest) for each row."""
    ahead, _, base = column.partition("/")
    alone = len(ratio_columns(rows)) == 1
    found = []
    for row in rows:
        whose = row.get("of", ahead)
        if whose == base or not row[column]:  # itself, or not measured
            continue
        label = " × ".join(row[name] for name in sizes(rows))
        ends = SPREAD if SPREAD[0] in row and alone else (column, column)
        numbers = (float(row[name]) for name in (column, *ends))
        found.append((label, whose, *numbers))
    return found


def picture(rows: list[dict], column: str) -> str:
    """An SVG of the ratios of one mode: a bar for each size and competitor."""
    drawn = bars(rows, column)
    labels = list(dict.fromkeys(bar[0] for bar in drawn))
    whose = list(dict.fromkeys(bar[1] for bar in drawn))
    with matplotlib.rc_context(drawing.STYLE):
        height = 1.1 + 0.24 * len(drawn) + 0.14 * len(labels)
        figure = Figure(figsize=(5.6, height))
        axis = figure.subplots()
        place, ticks = 0.0, []
        for label in labels:
            here = [bar for bar in drawn if bar[0] == label]
            ticks.append(place + (len(here) - 1) / 2)
            for _, name, ratio, smallest, largest in here:
                axis.barh(place, ratio, color=COLOURS[whose.index(name) % 6])
                axis.hlines(place, smallest, largest, "black", linewidth=1)
                # Behind the line, where nothing else is drawn.
                said = f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
                axis.text(largest, place, f" {said}", va="center")
                place += 1
            place += 0.6
        axis.axvline(1, color="black", linestyle="--", linewidth=1)
        axis.set_yticks(ticks, labels)
        axis.invert_yaxis()
        timed = any(n == "seconds" or n.endswith("_s") for n in rows[0])
        what = "time" if timed else "size"
        axis.set_xlabel(
            f"{what}, in multiples of {column.partition('/')[2]}\n"
            f"rows: {' × '.join(sizes(rows))}"
        )
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
        for index, name in enumerate(whose):
            axis.barh(0, 0, color=COLOURS[index % 6], label=name)
        axis.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False
        )
        return drawing.svg(figure, bbox_inches="tight")


def title(path: pathlib.Path) -> str:
    """hard_plans-jax-0.10.2-cpu.csv -> Hard plans: jax 0.10.2, cpu."""
    op, *where = path.stem.split("-")
    op = op.replace("_", " ").capitalize()
    return f"{op}: {' '.join(where[:-1])}, {where[-1]}" if where else op


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    cells = [[c.replace("|", "\\|") for c in row.values()] for row in rows]
    return _markdown([list(rows[0]), *cells])


def transposed_table(rows: list[dict]) -> str:
    """A line for each column, where rows are few; without lines of zeros."""
    lines = [
        [name.replace("_", " "), *(row[name] for row in rows)]
        for name in rows[0]
        if any(row[name] not in ("0", "0.0") for row in rows)
    ]
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    """Lines of cells, the first of them the head, as a table."""
    rule = ["---"] * len(lines[0])
    lines = [lines[0], rule, *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.cache  # for the text and, elsewhere, for the pictures
def chapters(folder: pathlib.Path) -> tuple[str, dict[str, str]]:
    """A chapter for each table, and its pictures by their paths in the site."""
    files, text = {}, []
    for path in sorted(folder.glob("*.csv")):
        rows = read(path)
        text.append(f"## {title(path)}")
        op = path.stem.partition("-")[0]
        draw = _curves if op in curves.CURVES else _bars
        for name, content, shown in draw(path.stem, rows):
            files[name] = content
            text.append(shown)
        shown = table(rows).replace("\n", "\n    ")
        text.append(f'??? note "The table, {path.name}"\n\n    {shown}')
    return "\n\n".join(text), files


def _curves(stem, rows):
    """Path, content and Markdown of a table's one picture of curves."""
    right, panels = curves.CURVES[stem.partition("-")[0]]
    name = f"benchmarks/{stem}-against.svg"
    content = curves.picture(rows, right, panels)
    yield name, content, f"![{', '.join(panels.values())}]({name})"


def _bars(stem, rows):
    """Path, content and Markdown of a table's pictures of ratios."""
    what = [(row.get("op", stem), row.get("mode")) for row in rows]
    for op, mode in dict.fromkeys(what):
        chosen = [r for r, w in zip(rows, what) if w == (op, mode)]
        caption = f"{op}, {MODES.get(mode, mode)}" if mode else op
        for column in ratio_columns(rows):
            if not bars(chosen, column):
                continue
            name = f"{stem}-{op}-{mode}-{column}"
            name = f"benchmarks/{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.svg"
            shown = f"**{caption}**\n\n![{caption}: ratios]({name})"
            yield name, picture(chosen, column), shown

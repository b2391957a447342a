"""Plots of time and memory against tokens, and against experts.

`CURVES` names the tables that have such plots: what is counted to the right,
and the columns that go up, each a panel with its title. A line is a competitor
in a mode, or a mode alone where competitors are counted to the right.
"""

import drawing
import matplotlib
from drawing import COLOURS
from drawing import MODES
from matplotlib.figure import Figure

CURVES = {
    "soft_routing_memory": (
        "tokens",
        {
            "peak_extra_mib": "memory beyond inputs, MiB",
            "seconds": "seconds of CPU time, once, compiling included",
        },
    ),
    "soft_moe_experts": (
        "experts",
        {"/8 experts": "time, in multiples of 8 experts"},
    ),
}
DASHES = {"F": "--", "FB": "-"}


def lines(rows: list[dict], right: str, up: str) -> dict:
    """{(competitor, mode): ([x…], [y…])}, of what was measured."""
    places = len({row[right] for row in rows})
    counted = places == len({(row[right], row["of"]) for row in rows})
    found = {}
    for row in rows:
        if row[up]:
            name = "" if counted else row["of"]
            xs, ys = found.setdefault((name, row["mode"]), ([], []))
            xs.append(int(row[right]))
            ys.append(float(row[up]))
    return found


def picture(rows: list[dict], right: str, panels: dict) -> str:
    """An SVG with a panel for each column."""
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (up, title) in zip(axes, panels.items()):
            drawn = lines(rows, right, up)
            names = list(dict.fromkeys(name for name, _ in drawn))
            for (name, mode), points in drawn.items():
                axis.plot(
                    *points,
                    DASHES[mode],
                    marker="o",
                    markersize=3,
                    color=COLOURS[names.index(name)],
                    label=f"{name} {MODES[mode]}".strip(),
                )
            ticks = sorted({int(row[right]) for row in rows})
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.set_title(title, fontsize=8)
            axis.set_xlabel(right)
            axis.grid(alpha=0.3)
            if up.startswith("/"):
                axis.set_ylim(bottom=0)
            else:
                axis.set_yscale("log")
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(3, len(names) + 1),
            frameon=False,
            fontsize=7,
            handlelength=3.5,
        )
        return drawing.svg(figure)

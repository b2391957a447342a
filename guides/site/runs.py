"""Curves of training runs, from the records that scripts write."""

import json
import pathlib

import benchmarks
import drawing
import matplotlib
import numpy as np
from drawing import COLOURS
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parent.parent.parent
SELECTIONS = ROOT / "zoo" / "results" / "selections_mot_tiny_shakespeare.json"
VALUES = ROOT / "guides" / "value_network.json"
HEADS = {"dense": "dense layer", "soft": "`SoftMoE`"}


def pictures() -> dict[str, str]:
    """{path in the site: SVG} of all records."""
    return {"selections.svg": selections(), "value_network.svg": values()}


def read(path) -> dict:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def selections_table() -> str:
    """Losses, loads and choices of the ways in which experts choose tokens."""
    rows = []
    for name, one in read(SELECTIONS).items():
        load = np.mean([block[-1] for block in one["max_load"]])
        dropped = np.mean([block[-1] for block in one["dropped"]])
        rows.append(
            {
                "`selection`": f"`{name}`",
                "bits per byte": f"{one['validation'][-1]:.3f}",
                "largest load": f"{load:.2f}",
                "experts of a token": f"{np.sum(one['load'][0]):.2f}",
                "dropped": f"{dropped:.0%}",
                "choices unlike top-k's": f"{one['differ']:.0%}",
            }
        )
    return benchmarks.table(rows)


def selections() -> str:
    """Losses and largest loads after each epoch."""
    panels = {
        "validation text, bits per byte": lambda one: one["validation"],
        "largest load of an expert": lambda one: np.mean(
            one["max_load"], axis=0
        ),
    }
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        for axis, (title, curve) in zip(figure.subplots(1, 2), panels.items()):
            for colour, (name, one) in zip(COLOURS, read(SELECTIONS).items()):
                found = curve(one)
                epochs = range(1, len(found) + 1)
                axis.plot(epochs, found, "o-", color=colour, label=name)
            axis.set_title(title, fontsize=8)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
        return _with_legend(figure, axis)


def values_table() -> str:
    """Parameters, times and returns of the agents of each head."""
    record = read(VALUES)
    rows = []
    for head, title in HEADS.items():
        one = record["heads"][head]
        last = [curve[-1] for curve in one["returns"]]
        rows.append(
            {
                "behind the convolutions": title,
                "parameters": f"{one['parameters']:,}",
                "CPU seconds": f"{np.mean(one['seconds']):.0f}",
                "mean return at the end": f"{np.mean(last):.1f}",
                "of each seed": ", ".join(f"{r:.1f}" for r in last),
            }
        )
    return benchmarks.table(rows)


def values() -> str:
    """Returns against steps: each seed thin, their mean thick."""
    record = read(VALUES)
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axis = figure.subplots()
        for colour, (head, title) in zip(COLOURS, HEADS.items()):
            curves = np.array(record["heads"][head]["returns"], float)
            parts = curves.shape[1]
            steps = record["steps"] * (np.arange(parts) + 0.5) / parts
            for curve in curves:
                axis.plot(steps, curve, color=colour, alpha=0.35, linewidth=1)
            axis.plot(
                steps,
                curves.mean(axis=0),
                color=colour,
                linewidth=2.5,
                label=title.strip("`"),
            )
        axis.set_xlabel("steps of the game")
        axis.set_ylabel("mean return of an episode")
        axis.grid(alpha=0.3)
        return _with_legend(figure, axis)


def _with_legend(figure, axis):
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return drawing.svg(figure)

"""Figures without a window, and arrays of plans, for the pictures."""

from keras_moe import checks
from keras_moe import extras
from keras_moe.plan_arrays import weights as weights


def new_figure(width: float, height: float):
    """A matplotlib figure that belongs to no window, sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise extras.missing(
            "matplotlib", "viz", "keras_moe.visualize"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def check_title(title):
    """Refuse a title that is neither text nor `None`."""
    if title is not None and not isinstance(title, str):
        raise ValueError(
            f"title must be a string or None; {checks.received(title)}."
        )


def whole_ticks(axis):
    """Put the ticks of a matplotlib x or y axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def hatch(axis, places, colour="tab:orange"):
    """Hatch unit cells of an axis.

    Args:
        axis: matplotlib axes.
        places: (left, bottom, width, height) of each cell, in data units.
        colour: of the lines and of the frame.
    """
    from matplotlib.patches import Rectangle

    for left, bottom, width, height in places:
        axis.add_patch(
            Rectangle(
                (left, bottom),
                width,
                height,
                facecolor="white",
                edgecolor=colour,
                hatch="/////",
                linewidth=0.5,
            )
        )


def span(values) -> str:
    """The range of values as text, such as `0.01 to 0.27`."""
    return f"{values.min():.2g} to {values.max():.2g}"


def blank(axis):
    """Take the ticks off an axis."""
    axis.set_xticks([])
    axis.set_yticks([])

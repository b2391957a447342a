"""What the pictures share: a figure without a window, and a plan's arrays."""

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


def blank(axis):
    """Take the ticks off an axis."""
    axis.set_xticks([])
    axis.set_yticks([])

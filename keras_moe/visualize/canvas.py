"""What the pictures share: a figure without a window, and a plan's arrays."""

from keras import ops

from keras_moe.plans import HardPlan
from keras_moe.plans import SoftPlan


def new_figure(width: float, height: float):
    """A matplotlib figure that belongs to no window, sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "keras_moe.visualize needs matplotlib; install it with "
            "`pip install 'keras-moe[viz]'`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def weights(plan):
    """Dispatch and combine of a plan as numpy arrays, each (G,T,E,S)."""
    if not isinstance(plan, (SoftPlan, HardPlan)):
        raise ValueError(
            "plan must be a SoftPlan or a HardPlan, as capture() yields; "
            f"received {plan!r}."
        )
    return [ops.convert_to_numpy(w) for w in plan.weights()]


def blank(axis):
    """Take the ticks off an axis."""
    axis.set_xticks([])
    axis.set_yticks([])

"""The load of each expert, and how similar the tokens are that they read."""

import numpy as np

from keras_moe import diagnostics
from keras_moe import plan_arrays
from keras_moe.visualize import canvas


def expert_load(plan, title: str | None = None):
    """Draw the share of each expert in what the tokens receive.

    Args:
        plan: a `SoftPlan`, `HardPlan` or `GroupedPlan`, as from
            `diagnostics.capture`.
        title: a line above everything.

    Returns:
        A matplotlib figure that belongs to no window; the dashed line is
        where all shares are equal.

    Raises:
        ValueError: if `plan` is none, or `title` no text.
    """
    canvas.check_title(title)
    load = diagnostics.summarize(plan)["load"]
    figure = canvas.new_figure(4.2, 2.6)
    axis = figure.subplots()
    axis.bar(np.arange(len(load)), load, color="tab:red")
    axis.axhline(1 / len(load), color="black", linestyle="--", linewidth=1)
    axis.set(xlabel="expert", ylabel="share of the load")
    axis.set_xlim(-0.6, len(load) - 0.4)
    canvas.whole_ticks(axis.xaxis)
    figure.suptitle(title)
    return figure


def expert_similarity(plan, title: str | None = None):
    """Draw how similar the tokens are that each pair of experts reads.

    The value is the cosine between the dispatch weights of two experts, each
    summed over the slots of the expert: the mean over the groups in which both
    experts read a token. 1 means that both read the same tokens; a white cell
    means that there is no such group.

    Args:
        plan, title: as in `expert_load`.
    """
    canvas.check_title(title)
    pairs = similarity_of_pairs(plan)
    figure = canvas.new_figure(3.4, 2.8)
    axis = figure.subplots()
    shown = axis.imshow(pairs, cmap="viridis", vmin=0, vmax=1)
    axis.set(xlabel="expert", ylabel="expert")
    canvas.whole_ticks(axis.xaxis)
    canvas.whole_ticks(axis.yaxis)
    figure.colorbar(shown, ax=axis, label="cosine")
    figure.suptitle(title)
    return figure


def similarity_of_pairs(plan):
    """Mean cosine of each pair of experts: (E,E), NaN without a group."""
    read, _ = plan_arrays.shares(plan)
    unit, reads = plan_arrays.unit_columns(read.sum(axis=-1))  # (G,T,E), (G,E)
    cosines = np.einsum("gte,gtf->ef", unit, unit)
    groups = np.einsum("ge,gf->ef", reads, reads, dtype="float32")
    return cosines / np.where(groups > 0, groups, np.nan)

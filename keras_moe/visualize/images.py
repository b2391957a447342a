"""Regions of images that slots and experts read, and dropped patches."""

import numpy as np

from keras_moe import checks
from keras_moe import plan_arrays
from keras_moe.visualize import canvas


def slot_regions(
    images,
    plan,
    grid: tuple[int, int],
    columns: int = 6,
    titles=None,
    title: str | None = None,
):
    """Show which parts of each image the most used slots read.

    One row for an image, one column for a slot. Red marks the patches with the
    largest dispatch weights. Each map has its own scale, from no red at the
    smallest weight to full red at the largest; both stand in its title. The use
    of a slot is the sum of its combine weights over all tokens.

    Args:
        images: (n,H,W), (n,H,W,1) or (n,H,W,3), numbers 0…255 or 0…1.
        plan: a `SoftPlan`, `HardPlan` or `GroupedPlan` of these images, as from
            `diagnostics.capture`; one group for an image.
        grid: (rows, columns) of the image's patches. Further tokens in front,
            such as a class token, are left out.
        columns: number of slots to show.
        titles: n lines of text, one beside each image.
        title: a line above everything.

    Returns:
        A matplotlib figure that belongs to no window; `savefig` writes it.

    Raises:
        ValueError: if an argument is not of its kind, or images, plan and grid
            do not fit each other.
    """
    images, read, taken = _fitting(images, plan, grid, titles, title)
    columns = checks.integer("columns", columns)
    slots = read.shape[-1]
    use = taken.sum(axis=(0, 1)).reshape(-1)
    chosen = np.argsort(-use, kind="stable")[:columns]
    names = [f"expert {k // slots}\nslot {k % slots}" for k in chosen]
    read = read.reshape(*read.shape[:2], -1)[:, :, chosen]
    return _draw_regions(images, read, grid, names, titles, title)


def expert_regions(
    images,
    plan,
    grid: tuple[int, int],
    columns: int = 6,
    titles=None,
    title: str | None = None,
):
    """Show which parts of each image the slots of an expert read together.

    As `slot_regions`, with a column for each of the most used experts.
    """
    images, read, taken = _fitting(images, plan, grid, titles, title)
    columns = checks.integer("columns", columns)
    use = taken.sum(axis=(0, 1, 3))
    chosen = np.argsort(-use, kind="stable")[:columns]
    names = [f"expert {k}" for k in chosen]
    read = read.sum(axis=-1)[:, :, chosen]
    return _draw_regions(images, read, grid, names, titles, title)


def token_weights(
    images,
    plan,
    grid: tuple[int, int],
    titles=None,
    title: str | None = None,
):
    """Show how much of each patch the slots read altogether.

    The map beside an image shows, for each patch, the sum of its dispatch
    weights (soft plans) or the number of its capacity slots (hard plans). With
    as many slots as tokens the mean of a map is 1. All maps share one scale,
    which stands in their titles. For hard plans a third picture is the image
    with hatched dropped patches.

    Args:
        images, plan, grid, titles, title: as in `slot_regions`.
    """
    images, read, _ = _fitting(images, plan, grid, titles, title)
    total = read.sum(axis=(2, 3)).reshape(-1, *grid)
    hard = plan_arrays.kind(plan).hard
    figure = canvas.new_figure(5.2 if hard else 3.9, 1.6 * len(images) + 0.5)
    axes = figure.subplots(len(images), 3 if hard else 2, squeeze=False)
    extent = _extent(images)
    for row, (image, weight) in enumerate(zip(images, total)):
        _show(axes[row, 0], image, titles[row] if titles else None)
        shown = axes[row, 1].imshow(
            weight, cmap="magma", extent=extent, vmin=0, vmax=total.max()
        )
        canvas.blank(axes[row, 1])
        name = "capacity slots" if hard else "dispatch weight"
        axes[row, 1].set_title(f"{name}\n{canvas.span(weight)}", fontsize=8)
        if hard:
            _show(axes[row, 2], image)
            places = _dropped_places(weight, images)
            canvas.hatch(axes[row, 2], places)
            axes[row, 2].set_title(
                f"dropped patches\n{len(places)} of {weight.size}", fontsize=8
            )
    bar = figure.colorbar(shown, ax=axes[:, 1].tolist(), shrink=0.8)
    if hard:
        canvas.whole_ticks(bar.ax.yaxis)
    figure.suptitle(title)
    return figure


def _dropped_places(weight, images):
    """(left, top, width, height) of the patches of weight 0, in pixels."""
    rows, columns = weight.shape
    height, width = images.shape[1] / rows, images.shape[2] / columns
    return [
        (column * width, row * height, width, height)
        for row, column in np.argwhere(weight == 0)
    ]


def _fitting(images, plan, grid, titles, title):
    """Images as floats, and a plan's two arrays (n,patches,E,S) of them."""
    images = _grey_or_colour(images)
    _check_titles(titles, len(images))
    canvas.check_title(title)
    _check_grid(grid)
    read, taken = canvas.weights(plan)
    groups, tokens, _, _ = read.shape
    patches = grid[0] * grid[1]
    if groups != len(images) or tokens < patches:
        raise ValueError(
            f"plan must have one group for each of the {len(images)} images, "
            f"and at least {patches} tokens for the grid {tuple(grid)}; it has "
            f"{groups} groups of {tokens} tokens."
        )
    return images, read[:, tokens - patches :], taken


def _draw_regions(images, read, grid, names, titles, title):
    """A row for an image, a column for each of the last axis of `read`."""
    low = read.min(axis=1, keepdims=True)
    span = read.max(axis=1, keepdims=True) - low
    regions = (read - low) / np.maximum(span, 1e-30)  # (n,patches,columns)
    rows, columns = len(images), len(names)
    figure = canvas.new_figure(1.4 * (columns + 1) + 0.4, 1.7 * rows + 0.7)
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    for row, image in enumerate(images):
        _show(axes[row, 0], image, titles[row] if titles else None)
        for column, axis in enumerate(axes[row, 1:]):
            _show(axis, image)
            red = np.zeros((*grid, 4))
            red[..., 0] = 1.0
            red[..., 3] = 0.85 * regions[row, :, column].reshape(grid)
            axis.imshow(red, extent=_extent(images))
            scale = canvas.span(read[row, :, column])
            heading = f"{names[column]}\n{scale}" if row == 0 else scale
            axis.set_title(heading, fontsize=8)
    figure.suptitle(title)
    return figure


def _show(axis, image, label=None):
    height, width = image.shape[:2]
    axis.imshow(
        image, cmap="gray", extent=(0, width, height, 0), vmin=0, vmax=1
    )
    canvas.blank(axis)
    if label is not None:
        axis.set_ylabel(label, fontsize=8)


def _extent(images):
    return (0, images.shape[2], images.shape[1], 0)


def _check_titles(titles, number):
    if titles is None:
        return
    if isinstance(titles, str) or not np.iterable(titles):
        raise ValueError(
            "titles must be a list of strings, one for each image; "
            f"{checks.received(titles)}."
        )
    if len(titles) != number:
        raise ValueError(
            f"titles must be {number}, one for each image; received "
            f"{len(titles)}."
        )


def _check_grid(grid):
    whole = isinstance(grid, (tuple, list)) and len(grid) == 2
    if not whole:
        raise ValueError(
            "grid must be two integers, (rows, columns) of the patches; "
            f"{checks.received(grid)}."
        )
    for name, number in zip(("rows", "columns"), grid):
        checks.integer(f"{name} of grid", number)


def _grey_or_colour(images):
    """Images as floats 0…1, without an axis for a single channel."""
    images = checks.numbers_of("images", images)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (
        images.ndim == 4 and images.shape[-1] != 3
    ):
        raise ValueError(
            "images must have the shape (n,H,W), (n,H,W,1) or (n,H,W,3); "
            f"received {images.shape}."
        )
    if not len(images):
        raise ValueError("images must not be empty; received none.")
    images = images.astype("float32")
    return images / 255 if images.max() > 1 else images

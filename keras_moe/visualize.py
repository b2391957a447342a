"""Pictures of plans: where the slots of a router look."""

import numpy as np
from keras import ops

from keras_moe.plans import HardPlan
from keras_moe.plans import SoftPlan


def slot_regions(
    images,
    plan,
    grid: tuple[int, int],
    columns: int = 6,
    titles=None,
    title: str | None = None,
):
    """Show which parts of each image the most used slots read.

    One row for an image, one column for a slot; red is what the slot reads
    most of. A slot is used as much as all tokens together take of it.

    Args:
        images: (n,H,W), (n,H,W,1) or (n,H,W,3), numbers 0…255 or 0…1.
        plan: a `SoftPlan` or `HardPlan` of these images, as from
            `diagnostics.capture`; one group for an image.
        grid: (rows, columns) of the image's patches. Further tokens in front,
            such as a class token, are left out.
        columns: number of slots to show.
        titles: n lines of text, one beside each image.
        title: a line above everything.

    Returns:
        A matplotlib figure that belongs to no window; `savefig` writes it.

    Raises:
        ValueError: if images, plan and grid do not fit each other.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "keras_moe.visualize needs matplotlib; install it with "
            "`pip install 'keras-moe[viz]'`."
        ) from error
    images = _grey_or_colour(images)
    regions, names = _regions(plan, len(images), grid, columns)
    rows, columns = len(images), len(names)
    if titles is not None and len(titles) != rows:
        raise ValueError(
            f"titles must be {rows}, one for each image; received "
            f"{len(titles)}."
        )
    figure = Figure(figsize=(1.5 * (columns + 1) + 0.8, 1.6 * rows + 0.7))
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    height, width = images.shape[1:3]
    extent = (0, width, height, 0)
    for row in range(rows):
        for column, axis in enumerate(axes[row]):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(images[row], cmap="gray", extent=extent, vmin=0, vmax=1)
            if column == 0:
                if titles is not None:
                    axis.set_ylabel(titles[row], fontsize=8)
                continue
            red = np.zeros((*grid, 4))
            red[..., 0] = 1.0
            red[..., 3] = 0.85 * regions[row, column - 1]
            axis.imshow(red, extent=extent)
            if row == 0:
                axis.set_title(names[column - 1], fontsize=9)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def _grey_or_colour(images):
    """Images as floats 0…1, without an axis for a single channel."""
    images = np.asarray(images)
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


def _regions(plan, number, grid, columns):
    """What the most used slots read: (n,slots,*grid) in 0…1, their names."""
    if not isinstance(plan, (SoftPlan, HardPlan)):
        raise ValueError(
            "plan must be a SoftPlan or a HardPlan, as capture() yields; "
            f"received {plan!r}."
        )
    read, taken = (ops.convert_to_numpy(w) for w in plan.weights())
    groups, tokens, _, slots = read.shape
    patches = grid[0] * grid[1]
    if groups != number or tokens < patches:
        raise ValueError(
            f"plan must have one group for each of the {number} images, and "
            f"at least {patches} tokens for the grid {tuple(grid)}; it has "
            f"{groups} groups of {tokens} tokens."
        )
    use = taken.sum(axis=(0, 1)).reshape(-1)
    chosen = np.argsort(-use, kind="stable")[:columns]
    read = read[:, tokens - patches :].reshape(groups, patches, -1)
    read = read[:, :, chosen].transpose(0, 2, 1)  # (n,slots,patches)
    low = read.min(axis=-1, keepdims=True)
    span = read.max(axis=-1, keepdims=True) - low
    regions = (read - low) / np.maximum(span, 1e-30)
    names = [f"expert {k // slots}\nslot {k % slots}" for k in chosen]
    return regions.reshape(groups, len(chosen), *grid), names

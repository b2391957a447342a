"""Drawings moved, turned and recoloured at random, for training."""

import numpy as np

from zoo.errors import DataError


def sharp(images, pixels):
    """Images (n,H,H,3) in fewer pixels, each the mean of a square of them.

    Args:
        images: uint8.
        pixels: of a side of the results; divides H.

    Raises:
        DataError: where it does not.
    """
    n = len(images)
    cell = cell_of(images, pixels)
    if cell == 1:
        return images
    cells = images.reshape(n, pixels, cell, pixels, cell, 3)
    return np.round(cells.mean((2, 4))).astype("u1")


def cell_of(images, pixels) -> int:
    """The side of the squares of which each becomes a pixel."""
    side = images.shape[1]
    if pixels > side or side % pixels:
        raise DataError(
            f"pixels must divide {side}, the pixels of a drawing's side; "
            f"received {pixels}."
        )
    return side // pixels


class Distortion:
    """Draws other pictures of drawings that have more pixels than it gives.

    A pixel is read at one place of the drawing, whose pixels have been
    averaged over squares of the size that it stands for.

    Args:
        images: uint8 (n,H,H,3), on white; they are copied.
        pixels: of a side of the results; divides H.
        shift: most pixels of the results that a drawing is moved by.
        turn: most degrees that it is turned by.
        zoom: logarithm of the largest factor of its size; its height and
            width differ by half as much.
        colour: standard deviation of how much of a colour goes into another,
            and of the logarithm of the contrast with white.
    """

    def __init__(self, images, pixels, *, shift, turn, zoom, colour):
        self.pixels = pixels
        self.cell = cell_of(images, pixels)
        self.shift, self.turn = shift, turn
        self.zoom, self.colour = zoom, colour
        # Windows of cell x cell pixels, at all places.
        windows = images.astype("u4")
        for axis in (1, 2):
            sums = np.cumsum(windows, axis)
            first = np.take(sums, [self.cell - 1], axis)
            size = sums.shape[axis] - self.cell
            front = np.take(sums, range(size), axis)
            back = np.take(sums, range(self.cell, size + self.cell), axis)
            windows = np.concatenate([first, back - front], axis)
        area = self.cell**2
        self.windows = ((windows + area // 2) // area).astype("u1")

    def __call__(self, index, rng):
        """Float32 (batch,pixels,pixels,3) in 0…255 of drawings by number.

        Args:
            index: integers (batch,).
            rng: a numpy generator.
        """
        images = self._warped(np.asarray(index), rng).astype("float32")
        return self._recoloured(images, rng) if self.colour else images

    def _warped(self, index, rng):
        batch, side = len(index), self.windows.shape[1]
        angle = np.deg2rad(rng.uniform(-self.turn, self.turn, batch))
        width = np.exp(rng.uniform(-self.zoom, self.zoom, batch))
        half = self.zoom / 2
        height = width * np.exp(rng.uniform(-half, half, batch))
        shift = rng.uniform(-self.shift, self.shift, (2, batch))
        middle = (self.pixels - 1) / 2
        line = (np.arange(self.pixels) - middle).astype("float32")
        cosine, sine = np.cos(angle), np.sin(angle)

        def places(along_x, along_y, moved):
            """Rows or columns (batch,pixels,pixels) that pixels are read at."""
            along_x, along_y, moved = (
                factor.astype("float32")[:, None, None] * self.cell
                for factor in (along_x, along_y, moved)
            )
            found = along_x * line + along_y * line[:, None] + moved
            found += (side - 1) / 2
            return np.clip(np.rint(found), 0, side - 1).astype("int32")

        columns = places(cosine * width, -sine * height, shift[0])
        rows = places(sine * width, cosine * height, shift[1])
        return self.windows[index[:, None, None], rows, columns]

    def _recoloured(self, images, rng):
        batch = len(images)
        mixture = np.eye(3) + rng.normal(0, self.colour, (batch, 3, 3))
        mixture /= mixture.sum(axis=1, keepdims=True)  # grey stays grey
        contrast = np.exp(rng.normal(0, self.colour, (batch, 1, 1)))
        mixture = (mixture * contrast).astype("float32")
        ink = 255 - images  # white stays white
        ink = np.einsum("bhwc,bcd->bhwd", ink, mixture, optimize=True)
        return np.clip(255 - ink, 0, 255)

"""Sizes of blocks of rows."""

from keras import ops

BLOCK = 2**22  # entries of a block (rows x all columns): 16 MiB in float32
FEWEST = 64  # rows; with fewer, products are slow


def blocks(rows, columns) -> tuple:
    """`(number, size)` of the blocks that cover the rows, of equal size.

    Rows and columns are integers, or scalar tensors; so is what comes back.
    """
    if isinstance(columns, int):
        size = max(BLOCK // columns, FEWEST)
    else:
        size = ops.maximum(BLOCK // columns, FEWEST)
    number = -(-rows // size)
    return number, -(-rows // number)

"""The position embedding of the vision transformer, for every framework."""

import numpy as np

TEMPERATURE = 10_000.0


def position_embedding(height: int, width: int, dim: int) -> np.ndarray:
    """Returns the fixed 2-D sine and cosine embedding of MoCo v3.

    A quarter of the dimensions each holds the sine and the cosine of the column,
    then the sine and the cosine of the row, at geometrically spaced frequencies.

    Args:
        height: Rows of patches.
        width: Columns of patches.
        dim: Size of a token; a multiple of 4.

    Returns:
        The embedding, float64 `[height * width, dim]`, row by row.

    Raises:
        ValueError: If the size of a token is none that it can have.
    """
    if dim % 4 or dim < 8:
        raise ValueError(
            f'The position embedding needs a multiple of 4 that is at least 8, not a '
            f'width of {dim}.'
        )
    frequencies = TEMPERATURE ** -np.linspace(0, 1, dim // 4)
    column_angles = np.tile(np.arange(width), height)[:, None] * frequencies
    row_angles = np.repeat(np.arange(height), width)[:, None] * frequencies
    parts = (
        np.sin(column_angles),
        np.cos(column_angles),
        np.sin(row_angles),
        np.cos(row_angles),
    )
    return np.concatenate(parts, axis=1)

"""Which examples of a split are written."""

import numpy as np

from workloads_overrides.algoperf_data.errors import DataError


def spread(available: int, wanted: int | None, split: str) -> np.ndarray:
    """Returns positions spread evenly over a split, in rising order.

    Neighbours in the committed files resemble each other (molecules of one assay),
    so the first few would make a poor sample.

    Args:
        available: Size of the split.
        wanted: How many to take; None for all.
        split: Name of the split, for the error.

    Returns:
        int64 positions from 0 to `available - 1`, `[wanted]`.

    Raises:
        DataError: If the split has no such number of examples.
    """
    if wanted is None:
        wanted = available
    if not 1 <= wanted <= available:
        raise DataError(
            f'--num_{split} is {wanted}; the split has {available} examples, so it '
            f'must lie between 1 and {available}.'
        )
    return np.arange(wanted, dtype=np.int64) * available // wanted

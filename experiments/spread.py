"""Median and quartiles of a measurement, for the files of results."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def with_quartiles(
    name: str, values: Sequence[float] | np.ndarray, digits: int
) -> dict[str, Any]:
    """Returns the median under a name, and the quartiles beside it.

    Args:
      name: Name of the quantity.
      values: Its values.
      digits: To how many digits both are rounded.
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).round(digits).tolist()
    return {name: median, f'{name}_quartiles': [low, high]}

"""Steps to a target over the seeds of a point, as the tables give them."""

import math
import statistics
from collections.abc import Sequence

from experiments.trials import Record


def median_steps(runs: Sequence[Record], target: float) -> float:
    """Returns the median steps to a target; a run that misses it takes for ever."""
    return statistics.median(run.steps_to(target) or math.inf for run in runs)


def format_steps(runs: Sequence[Record], target: float) -> str:
    """Formats the median and each run's steps; '-' is a run that misses the target."""
    median = median_steps(runs, target)
    shown = '-' if math.isinf(median) else f'{median:.0f}'
    each = ', '.join(str(run.steps_to(target) or '-') for run in runs)
    return f'{shown} ({each})'

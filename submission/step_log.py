"""What a run says of itself every so many steps, the same in both frameworks."""

from collections.abc import Mapping
from typing import Any

from absl import logging

LOG_INTERVAL = 100


def log_step(
    workload: Any,
    global_step: int,
    scalars: Mapping[str, float],
    counters: Mapping[str, int],
    level: int = logging.INFO,
) -> None:
    """Logs a step, to the workload's own logger too where it has one.

    Args:
      workload: The workload.
      global_step: Number of steps taken before this one.
      scalars: `loss` and `grad_norm`.
      counters: Counts of what happened so far, by name.
      level: absl's level of the line.
    """
    if workload.metrics_logger is not None:
        workload.metrics_logger.append_scalar_metrics(
            {**scalars, **{f'kfac/{name}': n for name, n in counters.items()}},
            global_step,
        )
    logging.log(
        level,
        '%d) loss = %.4f, grad_norm = %.4f, %s',
        global_step,
        scalars['loss'],
        scalars['grad_norm'],
        ', '.join(f'{name} = {n}' for name, n in counters.items()),
    )

"""The logger that a workload hands to submissions for their own scalars."""

import pathlib
from collections.abc import Mapping
from typing import Any

from workloads_overrides.runner.csv_log import CsvLog


class MetricsLogger:
    """Writes scalars to `measurements.csv` and `eval_measurements.csv`.

    Attributes:
        latest: The last value of each scalar, for the progress bar.
    """

    def __init__(
        self, trial_dir: pathlib.Path, rows_to_keep: tuple[int, int] = (0, 0)
    ) -> None:
        """Opens the two files.

        Args:
            trial_dir: Folder of the trial.
            rows_to_keep: How many rows of each belong to the run so far.
        """
        self._all = CsvLog(trial_dir / 'measurements.csv', rows_to_keep[0])
        self._evals = CsvLog(trial_dir / 'eval_measurements.csv', rows_to_keep[1])
        self.latest: dict[str, Any] = {}

    @property
    def num_rows(self) -> tuple[int, int]:
        """How many rows each of the two files has."""
        return self._all.num_rows, self._evals.num_rows

    def append_scalar_metrics(
        self,
        metrics: Mapping[str, Any],
        global_step: int,
        preemption_count: int | None = None,
        is_eval: bool = False,
    ) -> None:
        """Writes a row.

        Args:
            metrics: Name to scalar: a number, or an array or tensor of one.
            global_step: The step the scalars belong to.
            preemption_count: How often the run was resumed, if known.
            is_eval: Whether this is an evaluation, whose rows go to both files.
        """
        row = {name: plain_scalar(value) for name, value in metrics.items()}
        row['global_step'] = global_step
        if preemption_count is not None:
            row['preemption_count'] = preemption_count
        self.latest.update(row)
        self._all.append(row)
        if is_eval:
            self._evals.append(row)

    def finish(self) -> None:
        """Closes the files."""
        self._all.close()
        self._evals.close()


def plain_scalar(value: Any) -> Any:
    """Returns a Python number for an array or tensor with one element."""
    return value.item() if hasattr(value, 'item') else value

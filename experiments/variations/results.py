"""What has been recorded of a workload's trials."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from experiments import trials
from experiments.steps_to_target import median_steps
from experiments.trials import Record, Trial
from experiments.variations.points import Point
from workloads_overrides import registry


@dataclasses.dataclass(frozen=True)
class Results:
    """Records of a workload's trials, by the key of the trial.

    Attributes:
      workload: Name of the workload.
      framework: Framework that trains.
      seeds: Seeds to train every point with.
      target: The validation target.
      metric: Name of the metric that has this target.
      records: The records; where a trial has several, the one with most steps.
    """

    workload: str
    framework: str
    seeds: Sequence[int]
    target: float
    metric: str
    records: Mapping[str, Record]

    @classmethod
    def load(
        cls,
        paths: Iterable[pathlib.Path],
        workload: str,
        framework: str,
        seeds: Sequence[int],
    ) -> 'Results':
        """Reads the records of all studies of a workload."""
        loaded = registry.load_workload(workload, framework)
        records: dict[str, Record] = {}
        for path in paths:
            for record in trials.load_records(path):
                known = records.get(record.trial.key)
                if known is None or known.steps[-1] <= record.steps[-1]:
                    records[record.trial.key] = record
        return cls(
            workload,
            framework,
            seeds,
            loaded.validation_target_value,
            loaded.target_metric_name,
            records,
        )

    def trials_of(self, point: Point) -> list[Trial]:
        """Returns the trials of a point, one for each seed."""
        return [point.trial(self.workload, self.framework, s) for s in self.seeds]

    def runs_of(self, point: Point) -> list[Record]:
        """Returns the records of a point, by seed; none if a seed is missing."""
        found = [self.records.get(trial.key) for trial in self.trials_of(point)]
        complete = [record for record in found if record is not None]
        return complete if len(complete) == len(found) else []

    def missing(self, points: Sequence[Point], *, full: bool) -> list[Trial]:
        """Returns the trials yet to be trained, those of the first seed first.

        Args:
          points: The points.
          full: Whether trials go to the end of their schedule, or else to the target.
        """
        by_seed = zip(*(self.trials_of(point) for point in points), strict=True)
        return [
            trial
            for of_seed in by_seed
            for trial in {trial.key: trial for trial in of_seed}.values()
            if not self._is_enough(trial, full)
        ]

    def _is_enough(self, trial: Trial, full: bool) -> bool:
        record = self.records.get(trial.key)
        if record is None:
            return False
        reached = record.steps_to(self.target) is not None
        return (reached and not full) or ran_to_the_end(record)

    def check_interval(self, points: Sequence[Point], eval_every_steps: int) -> None:
        """Checks that records are comparable with the trials yet to be trained.

        Args:
          points: The points.
          eval_every_steps: Steps between two evaluations.

        Raises:
          ValueError: If a record was evaluated at other steps.
        """
        for point in points:
            for trial in self.trials_of(point):
                record = self.records.get(trial.key)
                if record is None:
                    continue
                first = min(eval_every_steps, trials.schedule_steps(trial))
                if record.steps[0] != first:
                    raise ValueError(
                        f'What is recorded was evaluated every {record.steps[0]} '
                        f'steps, not every {eval_every_steps}. Give '
                        f'--eval_every_steps={record.steps[0]}, or another '
                        '--output_dir.'
                    )

    def median_steps(self, point: Point) -> float | None:
        """Returns the median steps of a point; infinity if that misses the target.

        None if the point has not been trained with all seeds.
        """
        runs = self.runs_of(point)
        return median_steps(runs, self.target) if runs else None

    def describe(self) -> str:
        """Says in one line, above a table, what its numbers are."""
        seeds = ', '.join(str(seed) for seed in self.seeds)
        return (
            f'{self.workload}, {self.framework}: steps until the validation '
            f'{self.metric} is above {self.target:g}, the median over the seeds '
            f"({seeds}) and each of them in brackets; '-' where it is not reached."
        )


def ran_to_the_end(record: Record) -> bool:
    """Whether a trial was trained to the end of its schedule."""
    return record.steps[-1] >= trials.schedule_steps(record.trial)


def final_metric(runs: Sequence[Record]) -> float:
    """Returns the median of the metric at the end; a NaN is lower than any number."""
    ends = (run.validation[-1] for run in runs)
    return statistics.median(-math.inf if math.isnan(end) else end for end in ends)

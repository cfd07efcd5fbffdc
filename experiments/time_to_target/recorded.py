"""What has been recorded of a workload: its studies and the seconds of steps."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from experiments import trials
from experiments.time_to_target import scores, step_times
from experiments.time_to_target.methods import TRIALS, all_methods
from experiments.time_to_target.scores import StudyScore
from experiments.time_to_target.step_times import StepTimes
from workloads_overrides import registry


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The results of a workload.

    Attributes:
      target: The validation target.
      metric: Name of the target's metric.
      studies: Method name to its complete studies; only methods that have any.
      times: Seconds of steps.
    """

    target: float
    metric: str
    studies: Mapping[str, Sequence[StudyScore]]
    times: StepTimes


def records_path(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of the records of a workload and framework."""
    return folder / 'records.jsonl'


def load(workload_name: str, framework: str, folder: pathlib.Path) -> Recorded:
    """Reads the results of a workload.

    Args:
      workload_name: Name of the workload.
      framework: Framework that trained.
      folder: Folder of the records.

    Raises:
      ValueError: If no study is complete.
    """
    workload = registry.load_workload(workload_name, framework)
    target = workload.validation_target_value
    records = trials.load_records(records_path(folder))
    times = step_times.load(folder)
    studies = {
        name: scores.studies_of(
            scores.records_at(records, name, method.points),
            target,
            times.costs.get(name),
            len(method.points),
        )
        for name, method in all_methods(workload_name).items()
    }
    studies = {name: of_method for name, of_method in studies.items() if of_method}
    if not studies:
        raise ValueError(
            f'{records_path(folder)} has no method with all {TRIALS} trials of a seed; '
            'train first, without --report.'
        )
    return Recorded(target, workload.target_metric_name, studies, times)

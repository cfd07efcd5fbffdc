"""Points that can be chosen, and how fast trials at them were."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import trials
from experiments.trials import Record
from workloads_overrides import registry

Point = Mapping[str, Any]
# Of each workload and seed: steps to the target by the candidate's number.
StepsByStudy = dict[tuple[str, int], dict[int, int]]


def steps_by_study(
    records: Sequence[Record],
    targets: Mapping[str, float],
    step_hints: Mapping[str, int],
    candidates: Sequence[Point],
    *,
    soonest: bool = False,
) -> StepsByStudy:
    """Collects which candidates reached the target, and when.

    Args:
      records: Records of several workloads.
      targets: Validation target of each workload.
      step_hints: Step hint of each workload.
      candidates: The points.
      soonest: Whether a trial that was ended before the end of its schedule counts as
        if the next evaluation had been above the target; otherwise it has no entry,
        like one that never got there.

    Returns:
      Entries of every workload and seed with a record of a candidate.
    """
    found: StepsByStudy = {}
    for record in records:
        trial = record.trial
        if trial.hyperparameters not in candidates:
            continue
        study = found.setdefault((trial.workload, trial.seed), {})
        steps = record.steps_to(targets[trial.workload])
        schedule = (
            trial.hyperparameters['step_hint_factor'] * step_hints[trial.workload]
        )
        if steps is None and soonest and record.steps[-1] < round(schedule):
            # The first evaluation is at the interval between them.
            steps = record.steps[-1] + record.steps[0]
        if steps is not None:
            study[candidates.index(trial.hyperparameters)] = steps
    return found


def mean_log_steps(
    chosen: Sequence[int], studies: StepsByStudy, step_hints: Mapping[str, int]
) -> float:
    """Returns the mean logarithm of the fewest steps that a set of points needs.

    Args:
      chosen: Numbers of the points.
      studies: Steps of the candidates.
      step_hints: Steps that count, by workload, where none of the set got there.
    """
    fewest = [
        min((steps[n] for n in chosen if n in steps), default=step_hints[workload])
        for (workload, _), steps in studies.items()
    ]
    return sum(math.log(steps) for steps in fewest) / len(fewest)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Points and how fast they were.

    Attributes:
      points: The points.
      worst: Steps of the points if what was ended early had never got to the target.
      soonest: The same if it had with its next evaluation.
      step_hints: Step hint of each workload.
    """

    points: Sequence[Point]
    worst: StepsByStudy
    soonest: StepsByStudy
    step_hints: Mapping[str, int]


def load_candidates(
    workloads: Sequence[str],
    framework: str,
    results_dir: pathlib.Path,
    methods: Mapping[str, Sequence[Point]],
) -> Candidates:
    """Reads how fast the points of some methods were.

    Args:
      workloads: Names of workloads.
      framework: Framework that trained.
      results_dir: Folder of the records.
      methods: Name of each method to its points.

    Raises:
      ValueError: If there are no records of a workload, or none of the points.
    """
    points = [point for of_method in methods.values() for point in of_method]
    records, targets, step_hints = [], {}, {}
    for name in workloads:
        workload = registry.load_workload(name, framework)
        targets[name] = workload.validation_target_value
        step_hints[name] = workload.step_hint
        path = results_dir / f'{name}_{framework}'
        of_workload = trials.load_records(path / 'records.jsonl')
        if not of_workload:
            raise ValueError(
                f'{path} has no records; python -m experiments.time_to_target '
                f'--workload={name} --framework={framework} '
                f'--methods={",".join(methods)} makes them.'
            )
        records += of_workload
    worst, soonest = (
        steps_by_study(records, targets, step_hints, points, soonest=soonest)
        for soonest in (False, True)
    )
    if not worst:
        names = ' or '.join(methods)
        raise ValueError(f'The records of {results_dir} have no {names}.')
    return Candidates(points, worst, soonest, step_hints)

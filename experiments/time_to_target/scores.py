"""Scores of methods: time to the target of the best trial, by AlgoPerf's rules."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.step_seconds import StepSeconds
from experiments.time_to_target.methods import TRIALS
from experiments.trials import Record


@dataclasses.dataclass(frozen=True)
class StudyScore:
    """What a method did with one seed.

    Attributes:
      seed: The seed.
      best: The trial that reached the target first or, if none did, the one that came
        closest.
      steps: Steps of the best trial to the target; infinity if none got there.
      seconds: These steps times the seconds a step, with compilation where there is
        any; infinity if none got there.
      compilation: Seconds of compilation, 0 where nothing is compiled.
    """

    seed: int
    best: Record
    steps: float
    seconds: float
    compilation: float


def studies_of(
    records: Sequence[Record], target: float, cost: StepSeconds | None
) -> list[StudyScore]:
    """Scores the complete studies of a method.

    Args:
      records: Records of the method on a workload.
      target: The validation target.
      cost: Seconds of steps, measured apart; None takes those in the records, which
        are those of runs that shared the machine.

    Returns:
      A study for each seed all of whose trials are recorded, in the order of seeds.
    """
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.trial.seed, []).append(record)
    studies = []
    for seed, runs in sorted(by_seed.items()):
        if len(runs) < TRIALS:
            continue
        best = min(
            runs,
            key=lambda run: (run.steps_to(target) or math.inf, -max(run.validation)),
        )
        steps = best.steps_to(target) or math.inf
        of_run = cost or StepSeconds(best.seconds_per_step, best.compilation_seconds)
        studies.append(
            StudyScore(seed, best, steps, of_run.until(steps), of_run.compilation)
        )
    return studies


def median_and_range(values: Sequence[float]) -> dict[str, float | None]:
    """Returns median, lowest and highest; None stands for infinity."""
    found = {
        'median': statistics.median_high(values),
        'lowest': min(values),
        'highest': max(values),
    }
    return {name: None if math.isinf(value) else value for name, value in found.items()}


def summarise(
    studies: Mapping[str, Sequence[StudyScore]], costs: Mapping[str, StepSeconds]
) -> dict[str, Any]:
    """Returns what is known of each method, for `summary.json`.

    Args:
      studies: Method name to its studies.
      costs: Method name to seconds of steps, where measured apart.
    """
    return {
        method: {
            'seeds': [study.seed for study in of_method],
            'steps_to_target': median_and_range([s.steps for s in of_method]),
            'seconds_to_target': median_and_range([s.seconds for s in of_method]),
            'reached': sum(math.isfinite(study.steps) for study in of_method),
            'seconds_without_compilation': median_and_range(
                [s.seconds - s.compilation for s in of_method]
            ),
            'compilation_seconds': statistics.median(s.compilation for s in of_method),
            'seconds_per_step': costs[method].per_step if method in costs else None,
            'best_validation': statistics.median(
                max(study.best.validation) for study in of_method
            ),
            'best_hyperparameters': [
                dict(study.best.trial.hyperparameters) for study in of_method
            ],
        }
        for method, of_method in studies.items()
        if of_method
    }


def performance_profile(
    studies: Mapping[str, Sequence[StudyScore]],
    quantity: str,
) -> dict[str, list[float]]:
    """Returns each method's times as multiples of the best method's, sorted.

    The share of multiples below tau is the performance profile at tau (Dolan and
    More, 2002), as AlgoPerf scores it; here an instance is a seed.

    Args:
      studies: Method name to its studies, of one workload.
      quantity: `'steps'` or `'seconds'`.

    Returns:
      Method name to one multiple for each seed that all methods have; infinity where
      the target was not reached.
    """
    times = {
        method: {study.seed: getattr(study, quantity) for study in of_method}
        for method, of_method in studies.items()
        if of_method
    }
    if not times:
        return {}
    seeds = set.intersection(*(set(by_seed) for by_seed in times.values()))
    multiples: dict[str, list[float]] = {method: [] for method in times}
    for seed in seeds:
        fastest = min(by_seed[seed] for by_seed in times.values())
        for method, by_seed in times.items():
            reached = math.isfinite(by_seed[seed])
            multiples[method].append(by_seed[seed] / fastest if reached else math.inf)
    return {method: sorted(values) for method, values in multiples.items()}

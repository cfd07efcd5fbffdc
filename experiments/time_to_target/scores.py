"""Scores of methods: time to the target of the best trial, by AlgoPerf's rules."""

import dataclasses
import math
import statistics
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.step_seconds import StepSeconds
from experiments.time_to_target.methods import TRIALS
from experiments.trials import Record

Quantity = Literal['steps', 'seconds']
QUANTITIES: tuple[Quantity, ...] = typing.get_args(Quantity)


@dataclasses.dataclass(frozen=True)
class StudyScore:
    """What a method did with one seed.

    Attributes:
      seed: The seed.
      best: The trial that reached the target first or, if none did, the one that came
        closest.
      steps: Steps of the best trial to the target; infinity if none got there.
      seconds: These steps times the seconds a step, with compilation where there is
        any; infinity if none got there, None if the step was not timed.
      compilation: Seconds of compilation, 0 where nothing is compiled; None if the step
        was not timed.
    """

    seed: int
    best: Record
    steps: float
    seconds: float | None
    compilation: float | None


def records_at(
    records: Sequence[Record], method: str, points: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """Returns a method's records at some points of its search space."""
    return [
        record
        for record in records
        if record.trial.method == method and record.trial.hyperparameters in points
    ]


def best_of(runs: Sequence[Record], target: float) -> Record:
    """Returns who reached the target first or, if none did, who came closest."""
    return min(
        runs, key=lambda run: (run.steps_to(target) or math.inf, -max(run.validation))
    )


def studies_of(
    records: Sequence[Record],
    target: float,
    cost: StepSeconds | None,
    trials: int = TRIALS,
) -> list[StudyScore]:
    """Scores the complete studies of a method.

    Args:
      records: Records of the method on a workload.
      target: The validation target.
      cost: Seconds of steps, measured apart; None if they were not. The seconds in the
        records, of runs that shared the machine, would not be comparable.
      trials: Trials of a complete study.

    Returns:
      A study for each seed all of whose trials are recorded, in the order of seeds.
    """
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.trial.seed, []).append(record)
    studies = []
    for seed, runs in sorted(by_seed.items()):
        if len(runs) < trials:
            continue
        best = best_of(runs, target)
        steps = best.steps_to(target) or math.inf
        seconds, compilation = (
            (None, None) if cost is None else (cost.until(steps), cost.compilation)
        )
        studies.append(StudyScore(seed, best, steps, seconds, compilation))
    return studies


def measured(values: Sequence[float | None]) -> list[float] | None:
    """Returns the values; None if one of them was not measured."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def median(values: Sequence[float | None]) -> float | None:
    """Returns the median, of at least one value; None if one was not measured."""
    known = measured(values)
    return None if known is None else statistics.median(known)


def median_and_range(
    values: Sequence[float | None],
) -> dict[str, float | None] | None:
    """Returns median, lowest and highest; None in their place stands for infinity.

    Args:
      values: The values; None is one that was not measured.

    Returns:
      None if a value was not measured.
    """
    known = measured(values)
    if known is None:
        return None
    found = {
        'median': statistics.median(known),
        'lowest': min(known),
        'highest': max(known),
    }
    return {name: None if math.isinf(value) else value for name, value in found.items()}


def summarise(
    studies: Mapping[str, Sequence[StudyScore]], costs: Mapping[str, StepSeconds]
) -> dict[str, Any]:
    """Returns what is known of each method, for `summary.json`.

    Args:
      studies: Method name to its studies, at least one.
      costs: Method name to seconds of steps, where measured apart.
    """
    return {
        method: {
            'seeds': [study.seed for study in of_method],
            'steps_to_target': median_and_range([s.steps for s in of_method]),
            'seconds_to_target': median_and_range([s.seconds for s in of_method]),
            'reached': sum(math.isfinite(study.steps) for study in of_method),
            'seconds_without_compilation': median_and_range(
                [
                    None if s.seconds is None else s.seconds - (s.compilation or 0.0)
                    for s in of_method
                ]
            ),
            'compilation_seconds': of_method[0].compilation,
            'seconds_per_step': costs[method].per_step if method in costs else None,
            'best_validation': statistics.median(
                max(study.best.validation) for study in of_method
            ),
            'best_hyperparameters': [
                dict(study.best.trial.hyperparameters) for study in of_method
            ],
        }
        for method, of_method in studies.items()
    }


@dataclasses.dataclass(frozen=True)
class Profile:
    """Performance profiles, those of one quantity.

    Attributes:
      multiples: Method name to one multiple of the best method's time for each seed,
        sorted; infinity where the target was not reached.
      seeds: The seeds, the same for all methods.
      left_out: Methods that lack a seed, or were not timed.
    """

    multiples: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    left_out: Sequence[str]


def performance_profile(
    studies: Mapping[str, Sequence[StudyScore]],
    quantity: Quantity,
) -> Profile:
    """Returns each method's times as multiples of the best method's.

    The share of multiples below tau is the performance profile at tau (Dolan and
    More, 2002), as AlgoPerf scores it; here an instance is a seed. The seeds are those
    of the method with the most, and a method that lacks one is left out: what is best
    at a seed depends on who was tried with it.

    Args:
      studies: Method name to its studies, of one workload.
      quantity: What is compared.
    """
    times = {
        method: {study.seed: getattr(study, quantity) for study in of_method}
        for method, of_method in studies.items()
    }
    timed = {m: by_seed for m, by_seed in times.items() if None not in by_seed.values()}
    seeds = max((sorted(by_seed) for by_seed in timed.values()), key=len, default=[])
    complete = {m: by_seed for m, by_seed in timed.items() if {*seeds} <= {*by_seed}}
    multiples: dict[str, list[float]] = {method: [] for method in complete}
    for seed in seeds:
        fastest = min(by_seed[seed] for by_seed in complete.values())
        for method, by_seed in complete.items():
            reached = math.isfinite(by_seed[seed])
            multiples[method].append(by_seed[seed] / fastest if reached else math.inf)
    return Profile(
        {method: sorted(values) for method, values in multiples.items()},
        seeds,
        [method for method in times if method not in complete],
    )

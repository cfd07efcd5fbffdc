r"""Chooses the five points of `tuning_search_space.json` from measured trials.

Example::

    python -m experiments.time_to_target.choose_points --output=tuning_search_space.json

The candidates are the points of K-FAC-expand and K-FAC-reduce in
`experiments/time_to_target/search_spaces/`. A set of five is as good as the geometric
mean, over workloads and seeds, of the fewest steps in which one of the set reached the
target. The first point is the submission's defaults, which the self-tuning ruleset
uses; of the rest all combinations are compared, and they are written in the order in
which each adds most. It trains nothing: records come from
`python -m experiments.time_to_target`.
"""

import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments import trials
from experiments.time_to_target.methods import METHODS, RESULTS, TRIALS
from experiments.trials import Record
from submission.settings import Settings
from workloads_overrides import registry

_CANDIDATES = ('kfac_expand', 'kfac_reduce')

Point = Mapping[str, Any]
# Of each workload and seed: steps to the target by the candidate's number.
StepsByStudy = dict[tuple[str, int], dict[int, int]]


def steps_by_study(
    records: Sequence[Record], targets: Mapping[str, float], candidates: Sequence[Point]
) -> StepsByStudy:
    """Collects which candidates reached the target, and when.

    A trial that ended because another of its study was sooner has no entry, like one
    that never got there: neither can be what makes a set good.

    Args:
      records: Records of several workloads.
      targets: Validation target of each workload.
      candidates: The points.

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


def choose(
    first: int, n_candidates: int, studies: StepsByStudy, step_hints: Mapping[str, int]
) -> list[int]:
    """Returns the numbers of the best set of points, `first` among them and first.

    Of equally good sets it is the one with the earliest candidates.

    Args:
      first: The point that is in every set.
      n_candidates: Number of candidates.
      studies: Steps of the candidates.
      step_hints: As for `mean_log_steps`.
    """
    others = [number for number in range(n_candidates) if number != first]
    sets = itertools.combinations(others, min(TRIALS - 1, len(others)))
    remaining = list(
        min(sets, key=lambda s: mean_log_steps((first, *s), studies, step_hints))
    )
    ordered = [first]
    while remaining:
        following = min(
            remaining, key=lambda n: mean_log_steps([*ordered, n], studies, step_hints)
        )
        ordered.append(following)
        remaining.remove(following)
    return ordered


def _first_of(candidates: Sequence[Point]) -> int:
    for number, point in enumerate(candidates):
        if Settings.from_hyperparameters(point) == Settings():
            return number
    raise ValueError(
        "None of K-FAC's points is that of the submission's defaults; add it to one of "
        f'the search spaces of {" and ".join(_CANDIDATES)}.'
    )


def main(argv: Sequence[str]) -> None:
    """Chooses the points, prints what each adds, and writes them."""
    del argv
    given = flags.FLAGS
    candidates = [point for name in _CANDIDATES for point in METHODS[name].points]
    records, targets, step_hints = [], {}, {}
    try:
        first = _first_of(candidates)
        for name in given.workloads:
            workload = registry.load_workload(name, given.framework)
            targets[name] = workload.validation_target_value
            step_hints[name] = workload.step_hint
            path = pathlib.Path(given.results_dir) / f'{name}_{given.framework}'
            of_workload = trials.load_records(path / 'records.jsonl')
            if not of_workload:
                raise ValueError(
                    f'{path} has no records; python -m experiments.time_to_target '
                    f'--workload={name} --framework={given.framework} makes them.'
                )
            records += of_workload
        studies = steps_by_study(records, targets, candidates)
        if not studies:
            raise ValueError(f'The records of {given.results_dir} have no K-FAC trial.')
    except ValueError as error:
        sys.exit(f'Error: {error}')
    chosen = choose(first, len(candidates), studies, step_hints)
    print(f'{len(studies)} studies of {len(given.workloads)} workloads.')
    for number in range(len(chosen)):
        steps = math.exp(mean_log_steps(chosen[: number + 1], studies, step_hints))
        print(f'{steps:7.1f} steps with {json.dumps(candidates[chosen[number]])}')
    output = pathlib.Path(given.output)
    points = [dict(candidates[number]) for number in chosen]
    output.write_text(json.dumps(points, indent=2) + '\n')
    print(f'Written to {output}')


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_list(
        'workloads', ['ogbg_chembl', 'imagenet_vit_fashion_mnist'], 'Workloads.'
    )
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_string('results_dir', str(RESULTS), 'Folder of the records.')
    flags.DEFINE_string('output', None, 'Where to write the points.', required=True)


if __name__ == '__main__':
    define_flags()
    app.run(main)

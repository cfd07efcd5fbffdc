r"""Chooses the five points of `tuning_search_space.json` from measured trials.

Example::

    python -m experiments.time_to_target.choose_points --output=tuning_search_space.json

The candidates are the points of K-FAC-reduce, of K-FAC-expand and of the latter with
the spectral rule, all with averaged parameters, whose schedule is the whole step hint:
with a schedule that ends when K-FAC reaches the targets here, a workload on which it
takes longer would miss its target for good. A set of five is as good as the geometric
mean, over workloads and seeds, of the fewest steps in which one of the set reached the
target. The first point is that of the self-tuning ruleset; of the rest all combinations
are compared, and they are written in the order in which each adds most. Where sets are
equally good K-FAC-reduce's points are preferred, since these were the fastest on wide
models (`python -m experiments.time_to_target --workload=ogbg_chembl_full`). It trains
nothing: records come from

    python -m experiments.time_to_target --workload=... --methods=\
        kfac_reduce_averaged,kfac_expand_averaged,kfac_expand_spectral_averaged

These workloads' models are narrow and their schedules short; AlgoPerf's are neither. So
the points are written with a `fan_in_exponent`, which lets learning rates carry over,
and a `weight_decay_exponent`, which does so for weight decay. The rate of the spectral
rule falls with the root of a layer's inputs, by which the spectral norm of an update of
a given root mean square grows; that of NAdamW with the inputs, but for one point. The
exponents of weight decay are from 0.5 to 1, since how much smaller it should be differs
between workloads. (The larger the steps of a layer, the more weight decay keeps it in
its size.)

A trial that was ended because another of its study was sooner could have reached the
target from its next evaluation on, or never. The choice takes the worst, that it counts
like one that never did; since expand and reduce are studies of their own, with a best
of their own, the other bound would favour whichever was ended sooner. Printed are both
bounds, and whether the choice depends on which is taken.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, trials
from experiments.time_to_target.candidates import (
    Point,
    StepsByStudy,
    load_candidates,
    mean_log_steps,
)
from experiments.time_to_target.methods import (
    AVERAGED,
    RESULTS,
    SPECTRAL_AVERAGED,
    TRIALS,
)
from submission.settings import Settings

_CANDIDATES = (
    'kfac_reduce_averaged',
    'kfac_expand_averaged',
    'kfac_expand_spectral_averaged',
)
# Those that the points of each rule are written with, in their order.
_EXPONENTS = {
    'spectral': (
        {'fan_in_exponent': 0.5, 'weight_decay_exponent': 0.75},
        {'fan_in_exponent': 0.5, 'weight_decay_exponent': 1.0},
    ),
    'nadamw': (
        {'fan_in_exponent': 1.0, 'weight_decay_exponent': 1.0},
        {'fan_in_exponent': 0.5, 'weight_decay_exponent': 0.5},
        {'fan_in_exponent': 1.0, 'weight_decay_exponent': 0.75},
    ),
}


def with_exponents(points: Iterable[Point]) -> list[dict[str, Any]]:
    """Returns points with the exponents that those of their rule get, in turn.

    Args:
      points: Points of K-FAC, with a `first_order_rule`.
    """
    of_rule = {rule: itertools.cycle(given) for rule, given in _EXPONENTS.items()}
    return [{**point, **next(of_rule[point['first_order_rule']])} for point in points]


def points_by_method() -> dict[str, Sequence[Point]]:
    """Returns the methods whose points can be chosen, and these."""
    methods = {**AVERAGED, **SPECTRAL_AVERAGED}
    return {name: methods[name].points for name in _CANDIDATES}


def _sets(first: int, n_candidates: int) -> list[list[int]]:
    others = [number for number in range(n_candidates) if number != first]
    sets = itertools.combinations(others, min(TRIALS - 1, len(others)))
    return [[first, *rest] for rest in sets]


def could_be_better(
    chosen: Sequence[int],
    n_candidates: int,
    worst: StepsByStudy,
    soonest: StepsByStudy,
    step_hints: Mapping[str, int],
) -> list[int] | None:
    """Returns a set that could be better than the chosen one, None if there is none.

    It could if it needs fewer steps with the soonest that trials could have reached the
    target than the chosen one with the worst.

    Args:
      chosen: Numbers of the points, the first that of every set.
      n_candidates: Number of candidates.
      worst: Steps of the candidates, from `steps_by_study`.
      soonest: The same with `soonest`.
      step_hints: As for `mean_log_steps`.
    """
    limit = mean_log_steps(chosen, worst, step_hints)
    best = min(
        _sets(chosen[0], n_candidates),
        key=lambda s: mean_log_steps(s, soonest, step_hints),
    )
    # Rounding apart: equally good sets are added up in another order.
    better = mean_log_steps(best, soonest, step_hints) < limit - 1e-9
    return best if better else None


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
    remaining = min(
        _sets(first, n_candidates), key=lambda s: mean_log_steps(s, studies, step_hints)
    )[1:]
    ordered = [first]
    while remaining:
        following = min(
            remaining, key=lambda n: mean_log_steps([*ordered, n], studies, step_hints)
        )
        ordered.append(following)
        remaining.remove(following)
    return ordered


def _first_of(candidates: Sequence[Point]) -> int:
    self_tuning = dataclasses.replace(
        Settings.self_tuning(), fan_in_exponent=0.0, weight_decay_exponent=0.0
    )
    for number, point in enumerate(candidates):
        if Settings.from_hyperparameters(point) == self_tuning:
            return number
    raise ValueError(
        "None of K-FAC's points is that of the self-tuning ruleset without its "
        f'exponents; add it to a search space of {" or ".join(_CANDIDATES)}.'
    )


def main() -> None:
    """Chooses the points, prints what each adds, and writes them."""
    given = flags.FLAGS
    loaded = load_candidates(
        given.workloads,
        given.framework,
        pathlib.Path(given.results_dir),
        points_by_method(),
    )
    candidates, worst, soonest = loaded.points, loaded.worst, loaded.soonest
    step_hints, first = loaded.step_hints, _first_of(loaded.points)
    chosen = choose(first, len(candidates), worst, step_hints)
    print(f'{len(worst)} studies of {len(given.workloads)} workloads.')
    for number in range(len(chosen)):
        low, high = (
            math.exp(mean_log_steps(chosen[: number + 1], studies, step_hints))
            for studies in (soonest, worst)
        )
        point = json.dumps(candidates[chosen[number]])
        print(f'{low:.1f} to {high:.1f} steps with {point}')
    better = could_be_better(chosen, len(candidates), worst, soonest, step_hints)
    if better is None:
        print('Whatever trials that were ended early would have done: none is better.')
    else:
        low = math.exp(mean_log_steps(better, soonest, step_hints))
        print(
            f'Trials were ended early, so another set could be better: {low:.1f} steps '
            'at best with'
        )
        for number in better:
            print(json.dumps(candidates[number]))
    output = pathlib.Path(given.output)
    points = with_exponents(candidates[number] for number in chosen)
    output.parent.mkdir(parents=True, exist_ok=True)
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
    command.run(main)

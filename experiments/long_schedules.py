r"""Trains on schedules longer than the step hint: what should change there?

Example::

    python -m experiments.long_schedules --workload=ogbg_chembl

The hyperparameters of K-FAC were found on schedules of 1000 to 1500 steps, and
AlgoPerf's are up to 200 times as long. Here K-FAC-reduce with a `fan_in_exponent` of 1
and averaged parameters is trained for several times the step hint, with a
`weight_decay_exponent` of 0 (the weight decay of the short schedules), 0.5 and 1, with
dropout, label smoothing, a longer interval and K-FAC-expand beside the last; each of
the five points of `tuning_search_space.json` with its own exponents; the tuned NAdamW
reference with its own weight decay and more; and those of the points of SOAP and Muon
that were fastest on the workload, with their own weight decay and with one that falls
as the schedule grows, as K-FAC's does with an exponent of 1. Each trains to the end of
its schedule.

Records go to `results/long_schedules/<workload>_pytorch.jsonl` as they come; what is
recorded is not trained again. Prints a Markdown table with the validation metric on the
way and at the end, and the steps to what an exponent of 0, the best NAdamW and the best
of the rivals end with, rounded down to three digits; what has not been trained with all
seeds has no row.
"""

import bisect
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import command, compare, text_tables, trials, wide_models
from experiments.seeds import parse_seeds
from experiments.steps_to_target import format_steps
from experiments.time_to_target.methods import AVERAGED, METHODS, fastest_point
from experiments.trials import Record
from experiments.variations.points import Point, choose_names
from experiments.variations.results import Results
from submission.schedule import with_scheduled_weight_decay
from submission.settings import Settings
from workloads_overrides import registry

RESULTS = pathlib.Path(__file__).parent / 'results' / 'long_schedules'
EXPONENTS = (0.0, 0.5, 1.0)
# Beside an exponent of 1.
REGULARISERS = ('dropout_rate', 'label_smoothing')
# Likewise, in place of 10: as many updates as on the step hint.
INTERVAL = 40
NADAMW_WEIGHT_DECAYS = (0.02, 0.1)
RIVALS = ('soap', 'muon')
# Evaluations of a run, at which the table's shares of the schedule are.
_EVALUATIONS = 20
_SHARES = (0.25, 0.5, 0.75, 1.0)


def points(workload: str, step_hint_factor: float) -> list[Point]:
    """Returns what to train, that with the weight decay of short schedules first.

    Args:
      workload: Name of the workload.
      step_hint_factor: Length of the schedules in step hints.
    """
    first = {**AVERAGED['kfac_reduce_averaged'].points[0], 'fan_in_exponent': 1.0}
    nadamw = compare.hyperparameters_of('nadamw', workload)
    whole = {**first, 'weight_decay_exponent': 1.0}
    hyperparameters = {
        **{
            f'K-FAC: exponent {exponent:g}': {
                **first,
                'weight_decay_exponent': exponent,
            }
            for exponent in EXPONENTS
        },
        **{
            f'K-FAC: exponent 1 and {name} 0.1': {**whole, name: 0.1}
            for name in REGULARISERS
        },
        f'K-FAC: exponent 1 and interval {INTERVAL}': {
            **whole,
            'statistics_interval': INTERVAL,
            'inverse_interval': INTERVAL,
        },
        'K-FAC: exponent 1 and expand': {**whole, 'approximation': 'expand'},
        **{
            f'K-FAC: {point.name}': point.hyperparameters
            for point in wide_models.five_points('of five')
        },
        **{
            f'NAdamW: weight decay {decay:g}': {**nadamw, 'weight_decay': decay}
            for decay in NADAMW_WEIGHT_DECAYS
        },
        **{
            f'{METHODS[rival].label}: weight decay {point["weight_decay"]:.3g}': point
            for rival in RIVALS
            for point in _rivals_points(rival, workload, step_hint_factor)
        },
    }
    return [
        Point(name, {**point, 'step_hint_factor': step_hint_factor})
        for name, point in hyperparameters.items()
    ]


def _rivals_points(
    rival: str, workload: str, step_hint_factor: float
) -> list[dict[str, Any]]:
    """Returns the fastest point with its weight decay, and with what is forgotten last.

    With the second an update is forgotten after the same share of the schedule as where
    the point was found.
    """
    point = fastest_point(rival, workload)
    share = point['step_hint_factor'] / step_hint_factor
    return [
        {**point, 'weight_decay': decay}
        for decay in (point['weight_decay'], point['weight_decay'] * share)
    ]


def format_table(results: Results, step_hint: int, step_hint_factor: float) -> str:
    """Formats what the runs were at on the way, each seed beside the others.

    Args:
      results: What has been recorded.
      step_hint: Step hint of the workload.
      step_hint_factor: Length of the schedules in step hints.

    Raises:
      ValueError: If the first point has not been trained with all of the seeds.
    """
    first, *others = points(results.workload, step_hint_factor)
    first_runs = _runs_of(first, results)
    trained = [(first, first_runs)]
    trained += [(p, runs) for p in others if (runs := results.runs_of(p))]
    levels = [_level(first_runs)]
    for methods in (('nadamw',), RIVALS):
        of_them = [runs for point, runs in trained if point.method in methods]
        if of_them:
            levels.append(max(map(_level, of_them)))
    rows = []
    for point, runs in trained:
        rows.append(
            [
                point.name,
                f'{_weight_decay(point, step_hint):.3g}',
                *(_metric_at(runs, share) for share in _SHARES),
                *(format_steps(runs, level) for level in levels),
            ]
        )
    header = [
        'Trained',
        'weight decay',
        *(f'after {share:g} of {first_runs[0].steps[-1]} steps' for share in _SHARES),
        *(f'steps to {level:.3f}' for level in levels),
    ]
    return text_tables.markdown(header, rows)


def _weight_decay(point: Point, step_hint: int) -> float:
    """Returns the weight decay that a run has."""
    if point.method in RIVALS:
        return float(point.hyperparameters['weight_decay'])
    settings = Settings.from_hyperparameters(point.hyperparameters)
    return with_scheduled_weight_decay(settings, step_hint).weight_decay


def _level(runs: Sequence[Record]) -> float:
    """Returns what runs end with, rounded down so that they pass it themselves."""
    return math.floor(1e3 * min(run.validation[-1] for run in runs)) / 1e3


def _runs_of(point: Point, results: Results) -> list[Record]:
    missing = [
        str(trial.seed)
        for trial in results.trials_of(point)
        if trial.key not in results.records
    ]
    if missing:
        raise ValueError(
            f'{point.name} has not been trained on {results.workload} with the seeds '
            f'{", ".join(missing)}; train first, without --report.'
        )
    return results.runs_of(point)


def _metric_at(runs: Sequence[Record], share: float) -> str:
    indices = (bisect.bisect_left(run.steps, share * run.steps[-1]) for run in runs)
    return ', '.join(
        f'{run.validation[index]:.4f}' for run, index in zip(runs, indices, strict=True)
    )


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_float(
        'step_hint_factor', 4.0, 'Length of the schedules in step hints.', 0.0
    )
    flags.DEFINE_list('only', [], 'Names of the points to train; all if not given.')
    flags.DEFINE_list('seeds', ['0'], 'Seeds to train each point with.')
    flags.DEFINE_integer('processes', 2, 'Trials at once.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string(
        'folder', 'runs/long_schedules', "Folder of the runner's files."
    )
    flags.DEFINE_bool('report', False, 'Print the table only.')


def main() -> None:
    """Trains what is missing and prints the table."""
    given = flags.FLAGS
    name, factor = given.workload, given.step_hint_factor
    seeds = parse_seeds(given.seeds)
    step_hint = registry.load_workload(name, 'pytorch').step_hint
    path = pathlib.Path(given.output_dir) / f'{name}_pytorch.jsonl'
    if not given.report:
        named = {point.name: point for point in points(name, factor)}
        chosen = [named[n] for n in choose_names(given.only, list(named))]
        trials.run_all(
            [p.trial(name, 'pytorch', seed) for seed in seeds for p in chosen],
            path,
            pathlib.Path(given.folder) / f'{name}_pytorch',
            eval_every_steps=max(round(factor * step_hint / _EVALUATIONS), 1),
            processes=given.processes,
        )
    results = Results.load([path], name, 'pytorch', seeds)
    print(format_table(results, step_hint, factor))


if __name__ == '__main__':
    define_flags()
    command.run(main)

r"""Trains on schedules longer than the step hint: what should weight decay do there?

Example::

    python -m experiments.long_schedules --workload=ogbg_chembl

The hyperparameters of K-FAC were found on schedules of 1000 to 1500 steps, and
AlgoPerf's are up to 200 times as long. Here the first point of
`tuning_search_space.json` is trained for several times the step hint, with a
`weight_decay_exponent` of 0 (the weight decay of the short schedules), 0.5 and 1, each
to the end of its schedule.

Records go to `results/long_schedules/<workload>_pytorch.jsonl` as they come; what is
recorded is not trained again. Prints a Markdown table with the validation metric on the
way and at the end, and the steps to what an exponent of 0 ends with, rounded down to
three digits.
"""

import bisect
import math
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import command, text_tables, trials, wide_models
from experiments.seeds import parse_seeds
from experiments.steps_to_target import format_steps
from experiments.trials import Record
from experiments.variations.points import Point
from experiments.variations.results import Results
from submission.schedule import with_scheduled_weight_decay
from submission.settings import Settings
from workloads_overrides import registry

RESULTS = pathlib.Path(__file__).parent / 'results' / 'long_schedules'
EXPONENTS = (0.0, 0.5, 1.0)
# Evaluations of a run, at which the table's shares of the schedule are.
_EVALUATIONS = 20
_SHARES = (0.25, 0.5, 0.75, 1.0)


def points(step_hint_factor: float) -> list[Point]:
    """Returns what to train, that with the weight decay of short schedules first.

    Args:
      step_hint_factor: Length of the schedules in step hints.
    """
    first = wide_models.five_points('of five')[0].hyperparameters
    return [
        Point(
            f'weight_decay_exponent {exponent:g}',
            {
                **first,
                'step_hint_factor': step_hint_factor,
                'weight_decay_exponent': exponent,
            },
        )
        for exponent in EXPONENTS
    ]


def format_table(results: Results, step_hint: int, step_hint_factor: float) -> str:
    """Formats what the runs were at on the way, each seed beside the others.

    Args:
      results: What has been recorded.
      step_hint: Step hint of the workload.
      step_hint_factor: Length of the schedules in step hints.

    Raises:
      ValueError: If not all points have been trained with all of the seeds.
    """
    trained = [(point, _runs_of(point, results)) for point in points(step_hint_factor)]
    _, first_runs = trained[0]
    # Rounded down, so that the first runs pass it themselves.
    level = math.floor(1e3 * min(run.validation[-1] for run in first_runs)) / 1e3
    rows = []
    for point, runs in trained:
        settings = Settings.from_hyperparameters(point.hyperparameters)
        scheduled = with_scheduled_weight_decay(settings, step_hint)
        rows.append(
            [
                f'{settings.weight_decay_exponent:g}',
                f'{scheduled.weight_decay:.3g}',
                *(_metric_at(runs, share) for share in _SHARES),
                format_steps(runs, level),
            ]
        )
    header = [
        'weight_decay_exponent',
        'weight decay',
        *(f'after {share:g} of {first_runs[0].steps[-1]} steps' for share in _SHARES),
        f'steps to {level:.3f}',
    ]
    return text_tables.markdown(header, rows)


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
        trials.run_all(
            [
                point.trial(name, 'pytorch', seed)
                for seed in seeds
                for point in points(factor)
            ],
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

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

import math
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import command, text_tables, trials, wide_models
from experiments.seeds import parse_seeds
from experiments.steps_to_target import format_steps
from experiments.trials import Record
from experiments.variations.points import Point
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


def format_table(
    records: Sequence[Record],
    workload: str,
    step_hint: int,
    step_hint_factor: float,
    seeds: Sequence[int],
) -> str:
    """Formats what the runs were at on the way, each seed beside the others.

    Args:
      records: What has been recorded.
      workload: Name of the workload.
      step_hint: Its step hint.
      step_hint_factor: Length of the schedules in step hints.
      seeds: The seeds.

    Raises:
      ValueError: If not all points have been trained with all of the seeds.
    """
    found = {record.trial.key: record for record in records}
    rows = []
    level: float | None = None
    for point in points(step_hint_factor):
        keys = [point.trial(workload, 'pytorch', seed).key for seed in seeds]
        missing = [
            seed for seed, key in zip(seeds, keys, strict=True) if key not in found
        ]
        if missing:
            raise ValueError(
                f'{point.name} has not been trained on {workload} with the seeds '
                f'{", ".join(map(str, missing))}; train first, without --report.'
            )
        runs = [found[key] for key in keys]
        if level is None:
            # Rounded down, so that the first runs pass it themselves.
            level = math.floor(1e3 * min(run.validation[-1] for run in runs)) / 1e3
        settings = with_scheduled_weight_decay(
            Settings.from_hyperparameters(point.hyperparameters), step_hint
        )
        rows.append(
            [
                f'{point.hyperparameters["weight_decay_exponent"]:g}',
                f'{settings.weight_decay:.3g}',
                *(_metric_at(runs, share) for share in _SHARES),
                format_steps(runs, level),
            ]
        )
    header = [
        'weight_decay_exponent',
        'weight decay',
        *(f'after {share:g} of {runs[0].steps[-1]} steps' for share in _SHARES),
        f'steps to {level:.3f}',
    ]
    return text_tables.markdown(header, rows)


def _metric_at(runs: Sequence[Record], share: float) -> str:
    values = []
    for run in runs:
        steps = share * run.steps[-1]
        value = next(
            v for s, v in zip(run.steps, run.validation, strict=True) if s >= steps
        )
        values.append(f'{value:.4f}')
    return ', '.join(values)


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
    name, factor, seeds = (
        given.workload,
        given.step_hint_factor,
        parse_seeds(given.seeds),
    )
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
    print(format_table(trials.load_records(path), name, step_hint, factor, seeds))


if __name__ == '__main__':
    define_flags()
    command.run(main)

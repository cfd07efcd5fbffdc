r"""Prints steps to the target over seeds, from the recorded trials.

Reads `experiments/results/<workload>_<framework>/{nadamw,kfac}.jsonl` and trains
nothing. A method's point counts if it was trained with all the seeds of the NAdamW
reference, by `experiments.tune --seeds`.

Example::

    python -m experiments.tune --workload=ogbg_chembl --method=kfac \
        --search_space=tuning_search_space.json --num_tuning_trials=2 --seeds=0,1,2
    python -m experiments.report --workload=ogbg_chembl
"""

import collections
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, text_tables, trials
from experiments.compare import reference_of
from experiments.steps_to_target import format_steps, median_steps
from experiments.trials import Record, load_records
from experiments.tune import records_path

_HEADER = ('Method', 'Steps to target (each seed)', 'Ratio', 'Final metric')


def complete_points(
    records: Sequence[Record], seeds: Sequence[int]
) -> list[list[Record]]:
    """Groups records by point; keeps the points that have all the seeds."""
    groups: dict[str, dict[int, Record]] = collections.defaultdict(dict)
    for record in records:
        key = json.dumps(record.trial.hyperparameters, sort_keys=True)
        groups[key][record.trial.seed] = record
    return [
        [by_seed[seed] for seed in seeds]
        for by_seed in groups.values()
        if all(seed in by_seed for seed in seeds)
    ]


def reference_runs(path: pathlib.Path, reference: Mapping[str, Any]) -> list[Record]:
    """Returns the runs of the NAdamW reference, one for each of its seeds.

    Args:
      path: File of NAdamW's records.
      reference: From `compare.reference_of`.

    Raises:
      ValueError: If a seed is not recorded.
    """
    for runs in complete_points(load_records(path), reference['seeds']):
        if runs[0].trial.hyperparameters == reference['hyperparameters']:
            return runs
    raise ValueError(
        f'{path} does not have the NAdamW reference with all of the seeds '
        f'{reference["seeds"]}; train it by python -m experiments.tune '
        '--method=nadamw with these --workload, --framework and --seeds.'
    )


def make_row(
    name: str, runs: Sequence[Record], target: float, base: float
) -> list[str]:
    """Returns the cells of a point: its name, steps to target, ratio, final metric."""
    median = median_steps(runs, target)
    ratio = '-' if math.isinf(median) else f'{median / base:.2f}'
    final = statistics.median(run.validation[-1] for run in runs)
    return [name, format_steps(runs, target), ratio, f'{final:.4f}']


def main() -> None:
    """Prints a Markdown table for a workload."""
    name, framework = flags.FLAGS.workload, flags.FLAGS.framework
    reference = reference_of(name)
    target, seeds = reference['validation_target'], reference['seeds']
    path = records_path(name, framework, 'nadamw')
    kfac = load_records(records_path(name, framework, 'kfac'))
    base_runs = reference_runs(path, reference)
    base = median_steps(base_runs, target)
    print(f'{name}: validation target {target}, seeds {seeds}\n')
    rows = [make_row('NAdamW reference', base_runs, target, base)]
    for runs in complete_points(kfac, seeds):
        point = runs[0].trial.hyperparameters
        label = f'K-FAC-{point["approximation"]}, damping {point["damping"]}'
        rows.append(make_row(label, runs, target, base))
    print(text_tables.markdown(_HEADER, rows))


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Of the records.')


if __name__ == '__main__':
    define_flags()
    command.run(main)

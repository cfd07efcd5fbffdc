r"""Trains every point of a search space on a workload and ranks the points.

Example::

    python -m experiments.tune --workload=ogbg_chembl --method=nadamw \
        --search_space=experiments/search_spaces/nadamw.json

Every method gets as many points, each trained to the end of its own schedule with
the same seed. The records, one line of JSON for a trial, go to
`experiments/results/<workload>_<framework>/<method>.jsonl`; a second call trains only
what is missing there.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, trials
from experiments.seeds import parse_seeds
from workloads_overrides import registry
from workloads_overrides.runner.search_space import load_search_space

RESULTS = pathlib.Path(__file__).parent / 'results'


def records_path(workload: str, framework: str, method: str) -> pathlib.Path:
    """Returns the file of a method's records on a workload."""
    return RESULTS / f'{workload}_{framework}' / f'{method}.jsonl'


def tune(
    method: str,
    workload: str,
    framework: str,
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    eval_every_steps: int,
    processes: int,
    folder: pathlib.Path,
) -> list[trials.Record]:
    """Trains points with seeds and returns their records.

    Args:
      method: Name to record the trials under.
      workload: Name of the workload.
      framework: Framework to train in.
      points: Hyperparameters.
      seeds: Seeds to train each point with.
      eval_every_steps: Steps between evaluations.
      processes: Trials at once, on a thread each.
      folder: Folder of the runner's files.

    Raises:
      ValueError: If the workload is unknown.
    """
    # Not first in one of the processes, with files already there.
    registry.workload_class(workload, framework)
    return trials.run_all(
        [
            trials.Trial(method, workload, framework, point, seed)
            for point in points
            for seed in seeds
        ],
        records_path(workload, framework, method),
        folder / f'{workload}_{framework}',
        eval_every_steps=eval_every_steps,
        processes=processes,
    )


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_string(
        'method', None, 'Name to record the trials under.', required=True
    )
    flags.DEFINE_string('search_space', None, 'JSON file of the points.', required=True)
    flags.DEFINE_integer('num_tuning_trials', 100, 'At most this many points.')
    flags.DEFINE_list('seeds', ['0'], 'Seeds to train each point with.')
    flags.DEFINE_integer('eval_every_steps', 50, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once, a thread for each.', 1)
    flags.DEFINE_string('folder', 'runs/tune', "Folder of the runner's files.")
    flags.DEFINE_float(
        'target', None, "Rank by steps to this; the workload's target if not given."
    )


def main() -> None:
    """Tunes a method and prints its points, the fastest first."""
    points = [
        point._asdict()
        for point in load_search_space(
            flags.FLAGS.search_space, flags.FLAGS.num_tuning_trials
        )
    ]
    records = tune(
        flags.FLAGS.method,
        flags.FLAGS.workload,
        flags.FLAGS.framework,
        points,
        parse_seeds(flags.FLAGS.seeds),
        eval_every_steps=flags.FLAGS.eval_every_steps,
        processes=flags.FLAGS.processes,
        folder=pathlib.Path(flags.FLAGS.folder),
    )
    target = flags.FLAGS.target
    if target is None:
        workload = registry.load_workload(flags.FLAGS.workload, flags.FLAGS.framework)
        target = workload.validation_target_value
    print(f'steps to {target:g} | final | best | seed | hyperparameters')
    for record in sorted(records, key=lambda r: (_or_inf(r.steps_to(target)), r.steps)):
        print(
            f'{record.steps_to(target) or "-":>6} | {record.validation[-1]:.4f} | '
            f'{max(record.validation):.4f} | {record.trial.seed} | '
            f'{json.dumps(record.trial.hyperparameters)}'
        )


def _or_inf(value: int | None) -> float:
    return float('inf') if value is None else value


if __name__ == '__main__':
    define_flags()
    command.run(main)

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
from collections.abc import Sequence

from absl import app, flags

from experiments import trials
from workloads_overrides import registry
from workloads_overrides.runner.search_space import load_search_space

RESULTS = pathlib.Path(__file__).parent / 'results'

_WORKLOAD = flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
_FRAMEWORK = flags.DEFINE_string('framework', 'pytorch', 'Framework to train in.')
_METHOD = flags.DEFINE_string('method', '', 'Name to record the trials under.')
_SEARCH_SPACE = flags.DEFINE_string('search_space', '', 'JSON file of the points.')
_TRIALS = flags.DEFINE_integer('num_tuning_trials', 100, 'At most this many points.')
_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds to train each point with.')
_EVAL_EVERY = flags.DEFINE_integer('eval_every_steps', 50, 'Steps between evaluations.')
_PROCESSES = flags.DEFINE_integer('processes', 2, 'Trials at once, a thread for each.')
_FOLDER = flags.DEFINE_string('folder', 'runs/tune', "Folder of the runner's files.")
_TARGET = flags.DEFINE_float(
    'target', None, "Rank by steps to this; the workload's target if not given."
)


def records_path(workload: str, framework: str, method: str) -> pathlib.Path:
    """Returns the file of a method's records on a workload."""
    return RESULTS / f'{workload}_{framework}' / f'{method}.jsonl'


def tune(
    method: str,
    workload: str,
    framework: str,
    points: Sequence[dict[str, object]],
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
    """
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


def main(argv: Sequence[str]) -> None:
    """Tunes a method and prints its points, the fastest first."""
    del argv
    points = [
        point._asdict()
        for point in load_search_space(_SEARCH_SPACE.value, _TRIALS.value)
    ]
    records = tune(
        _METHOD.value,
        _WORKLOAD.value,
        _FRAMEWORK.value,
        points,
        [int(seed) for seed in _SEEDS.value],
        eval_every_steps=_EVAL_EVERY.value,
        processes=_PROCESSES.value,
        folder=pathlib.Path(_FOLDER.value),
    )
    target = _TARGET.value
    if target is None:
        workload = registry.load_workload(_WORKLOAD.value, _FRAMEWORK.value)
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
    flags.mark_flags_as_required(['method', 'search_space'])
    app.run(main)

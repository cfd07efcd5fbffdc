r"""Sets the targets of a held-out workload from NAdamW, as AlgoPerf does.

Example::

    python -m experiments.time_to_target.held_out_targets --workload=ogbg_chembl_gelu

Held-out workloads are variants of those that hyperparameters are chosen on: here every
method is tried at the points it has for these. So NAdamW has its five points too, where
`experiments.set_targets` searches for those that suit a workload. All train to the end
with the first seed; the one with the best final validation metric trains with the
others. Its median is the validation target, and the worst final test metric of the runs
that got there the test target. The workload's class declares both.

The runs are recorded with those of `python -m experiments.time_to_target`, where they
count as NAdamW's trials. A second call trains only what is missing.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, trials
from experiments.seeds import parse_seeds
from experiments.set_targets import runs_of_best_point, targets_from
from experiments.time_to_target.methods import METHODS, RESULTS
from experiments.trials import Record, Trial
from workloads_overrides import registry

_METHOD = 'nadamw'


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', None, 'Name of the workload.', required=True)
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds; the first is of the search.')
    flags.DEFINE_integer('eval_every_steps', 25, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once, a thread for each.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string(
        'folder', 'runs/time_to_target', "Folder of the runner's files."
    )


def main() -> None:
    """Trains what is missing and prints the targets.

    Raises:
      ValueError: If the workload is one that points were chosen on.
    """
    given = flags.FLAGS
    name, framework, method = given.workload, given.framework, METHODS[_METHOD]
    if not registry.is_held_out(name):
        raise ValueError(
            f'{name} is not held out; python -m experiments.set_targets sets its '
            'targets.'
        )
    folder = f'{name}_{framework}'

    def train(
        points: Sequence[Mapping[str, Any]], seeds: Sequence[int]
    ) -> list[Record]:
        return trials.run_all(
            [
                Trial(_METHOD, name, framework, point, seed, method.submission)
                for seed in seeds
                for point in points
            ],
            pathlib.Path(given.output_dir) / folder / 'records.jsonl',
            pathlib.Path(given.folder) / folder,
            eval_every_steps=given.eval_every_steps,
            processes=given.processes,
        )

    seeds = parse_seeds(given.seeds)
    runs = runs_of_best_point(train(method.points, seeds[:1]), seeds, train)
    validation, test = targets_from(runs)
    print(f'{name}: validation target {validation:g}, test target {test:g}, set by')
    print(dict(runs[0].trial.hyperparameters))


if __name__ == '__main__':
    define_flags()
    command.run(main)

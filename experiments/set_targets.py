r"""Sets a workload's targets from the tuned NAdamW reference, as AlgoPerf does.

1. Every point of `experiments/search_spaces/nadamw.json` trains the workload once, to
   the end of its schedule; the schedule's length is among what varies.
2. The point with the best final validation metric trains with more seeds. Its median
   final validation metric is the validation target; among the runs that reached it,
   the worst final test metric is the test target.
3. The points that reached the target soonest train with the same seeds. The one with
   the fewest median steps to the target is the reference that K-FAC is compared with.

Writes `experiments/references.json` and prints the targets, which the workload's class
declares (a test holds the two to each other). All runs are kept in
`experiments/results/<workload>_<framework>/nadamw.jsonl`; a second call trains only
what is missing there.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, trials, tune
from experiments.compare import REFERENCES
from experiments.steps_to_target import median_steps
from experiments.trials import Record
from workloads_overrides.runner.search_space import load_search_space

SEARCH_SPACE = pathlib.Path(__file__).parent / 'search_spaces' / 'nadamw.json'


Train = Callable[[Sequence[Mapping[str, Any]], Sequence[int]], list[Record]]


def runs_of_best_point(
    search: Sequence[Record], seeds: Sequence[int], train: Train
) -> list[Record]:
    """Trains the best point of a search with all seeds.

    Args:
      search: Runs of all points of a NAdamW search space with the first seed.
      seeds: Seeds.
      train: Trains points with seeds, once if it is asked again.

    Returns:
      A run of the best point, by final validation metric, for each seed.
    """
    best = max(search, key=lambda run: run.validation[-1])
    return train([best.trial.hyperparameters], seeds)


def targets_from(runs: Sequence[Record]) -> tuple[float, float]:
    """Returns validation and test target from the runs of the best point.

    Both are rounded down to three digits, so that the run in the middle reaches the
    target also where arithmetic rounds in another order.
    """
    validation = _round_down(statistics.median(run.validation[-1] for run in runs))
    reached = [run.test[-1] for run in runs if run.validation[-1] > validation]
    return validation, _round_down(min(reached))


def _round_down(value: float) -> float:
    return math.floor(value * 1000) / 1000


def set_targets(
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    finalists: int,
    train: Train,
) -> dict[str, Any]:
    """Follows the steps in the module's description.

    Args:
      points: Points of the NAdamW search space.
      seeds: Seeds; the first is that of the search.
      finalists: How many of the fastest points train with all seeds.
      train: Trains points with seeds.

    Returns:
      Targets and reference, as kept in `references.json`.
    """
    search = train(points, seeds[:1])
    best_runs = runs_of_best_point(search, seeds, train)
    validation_target, test_target = targets_from(best_runs)
    fastest = sorted(search, key=lambda run: median_steps([run], validation_target))
    groups = [train([run.trial.hyperparameters], seeds) for run in fastest[:finalists]]
    reference = min(groups, key=lambda runs: median_steps(runs, validation_target))
    return {
        'hyperparameters': dict(reference[0].trial.hyperparameters),
        'validation_target': validation_target,
        'test_target': test_target,
        'target_set_by': dict(best_runs[0].trial.hyperparameters),
        'points_tried': len(points),
        'seeds': list(seeds),
        'finalists': finalists,
        'reference_steps_to_target': [
            run.steps_to(validation_target) for run in reference
        ],
    }


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_integer('seeds', 3, 'Runs of the points that count.', 1)
    flags.DEFINE_integer('finalists', 1, 'Points that train with all seeds.', 1)
    flags.DEFINE_integer('eval_every_steps', 50, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once, a thread for each.', 1)
    flags.DEFINE_string('folder', 'runs/tune', "Folder of the runner's files.")


def main() -> None:
    """Sets the targets of a workload and writes the reference."""
    points = [point._asdict() for point in load_search_space(SEARCH_SPACE, 100)]

    def train(some: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Record]:
        return tune.tune(
            'nadamw',
            flags.FLAGS.workload,
            flags.FLAGS.framework,
            some,
            seeds,
            eval_every_steps=flags.FLAGS.eval_every_steps,
            processes=flags.FLAGS.processes,
            folder=pathlib.Path(flags.FLAGS.folder),
        )

    reference = set_targets(
        points, range(flags.FLAGS.seeds), flags.FLAGS.finalists, train
    )
    references = json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}
    references[flags.FLAGS.workload] = reference
    REFERENCES.write_text(json.dumps(references, indent=2, sort_keys=True) + '\n')
    print(json.dumps(reference, indent=2))


if __name__ == '__main__':
    define_flags()
    command.run(main)

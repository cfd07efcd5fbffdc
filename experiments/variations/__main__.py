r"""Measures the steps to the target of K-FAC with one thing changed.

Example::

    python -m experiments.variations --study=sensitivity --workload=ogbg_chembl
    python -m experiments.variations --study=tried --workload=ogbg_chembl --full

The base points are the first of K-FAC's search spaces in
`experiments/time_to_target/search_spaces/`. `sensitivity` moves the learning rate, the
damping, and the interval of statistics and inverses by factors from 1/10 to 10, and the
learning rate of the tuned NAdamW reference too. `tried` trains the named variations of
`experiments/variations/tried.json`. A trial ends when it reaches the validation target
or at the end of its schedule, which its own point sets; steps are not seconds, since a
shorter interval makes them dearer.

Records go to `experiments/results/variations/<workload>_<framework>/<study>.jsonl` as
they come, and a run that is stopped goes on where it was. What one study has trained
the other does not train again. `--report` trains nothing and writes table and plot from
what there is; both have the points that are recorded with all of `--seeds`.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import command, trials
from experiments.seeds import parse_seeds
from experiments.trials import Record
from experiments.variations.points import APPROXIMATIONS, Point
from experiments.variations.results import Results
from experiments.variations.studies import STUDIES, Study

RESULTS = pathlib.Path(__file__).parents[1] / 'results' / 'variations'


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_enum('study', None, list(STUDIES), 'Which study.', required=True)
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_list('approximations', list(APPROXIMATIONS), 'Approximations.')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds to train each point with.')
    flags.DEFINE_list(
        'only',
        [],
        'Hyperparameters, or names in tried.json, to train; all if not given.',
    )
    flags.DEFINE_bool('full', False, 'tried: train on beyond the target.')
    flags.DEFINE_integer('eval_every_steps', 25, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once.', 1)
    flags.DEFINE_integer('num_threads', 1, 'Threads of each.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string('folder', 'runs/variations', "Folder of the runner's files.")
    flags.DEFINE_bool('report', False, 'Write table and plot only.')


def train(
    points: Sequence[Point],
    results: Results,
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    full: bool,
    eval_every_steps: int,
    processes: int,
    num_threads: int,
) -> None:
    """Trains what `results` lacks of some points.

    Args:
      points: The points.
      results: What has been recorded.
      path: File of the new records.
      folder: Where the runner's files go.
      full: Whether trials go to the end of their schedule, or else to the target.
      eval_every_steps: Steps between evaluations.
      processes: Trials at once.
      num_threads: Threads of each.
    """
    results.check_interval(points, eval_every_steps)
    names = {
        trial.key: point.name for point in points for trial in results.trials_of(point)
    }

    def describe(record: Record) -> str:
        steps = record.steps_to(results.target) or '-'
        return f'{names[record.trial.key]}, seed {record.trial.seed}: {steps} steps'

    trials.train(
        results.missing(points, full=full),
        path,
        folder,
        eval_every_steps=eval_every_steps,
        processes=processes,
        num_threads=num_threads,
        stop_at_targets=not full,
        validation_only=True,
        describe=describe,
    )


def report(study: Study, results: Results, folder: pathlib.Path) -> str:
    """Writes table and plot; returns the table.

    Raises:
      ValueError: If no point has been trained with all seeds.
    """
    if not any(results.runs_of(point) for point in study.points()):
        seeds = ','.join(str(seed) for seed in results.seeds)
        raise ValueError(
            f'{folder} has no point of this study with all of the seeds {seeds}; '
            'train first, without --report, or give other --seeds.'
        )
    return study.report(results, folder)


def main() -> None:
    """Trains what is missing, unless told not to, and reports."""
    given = flags.FLAGS
    name = f'{given.workload}_{given.framework}'
    folder = pathlib.Path(given.output_dir) / name
    paths = {study: folder / f'{study}.jsonl' for study in STUDIES}
    if given.full and given.study != 'tried':
        raise ValueError('--full is for --study=tried; leave it out.')
    study = STUDIES[given.study](given.workload, given.approximations)
    points = study.points(given.only)
    seeds = parse_seeds(given.seeds)

    def load() -> Results:
        return Results.load(paths.values(), given.workload, given.framework, seeds)

    if not given.report:
        train(
            points,
            load(),
            paths[given.study],
            # A folder for each study, since the two may run side by side.
            pathlib.Path(given.folder) / name / given.study,
            full=given.full,
            eval_every_steps=given.eval_every_steps,
            processes=given.processes,
            num_threads=given.num_threads,
        )
    text = report(study, load(), folder)
    print(text)
    print(f'\nWritten to {folder}')


if __name__ == '__main__':
    define_flags()
    command.run(main)

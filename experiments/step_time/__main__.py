r"""Measures the time of a K-FAC step in units of a NAdamW step, and where it goes.

Example::

    python -m experiments.step_time --workload=ogbg_chembl --framework=jax

Prints tables of seconds a step by statistics interval, of where they go, and of peak
memory, and writes them with all rounds to
`experiments/results/step_time/<workload>_<framework>.json`, with plots beside it. Each
part is written as it comes: a run that is killed loses at most the part under way, and
the same command goes on with what is missing; `--report` measures nothing and writes
tables and plots from what there is. `--parts` chooses some: `--parts=steps
--parts=memory`. The larger workloads need a smaller batch and fewer rounds on a CPU.
How cost grows with size is measured by `python -m experiments.step_time.scaling`.
"""

import functools
import pathlib
from collections.abc import Collection
from typing import Any

from absl import flags, logging

from experiments import command, trials
from experiments.step_time import breakdown, intervals, memory, plots, tables
from experiments.step_time.results import Results
from experiments.step_time.runs import Run, start_all
from experiments.step_time.variants import INTERVAL, points
from submission.settings import get_batch_size
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.submission_functions import batch_size_for

PARTS = ('steps', 'breakdown', 'memory')


def measure_all(
    workload_name: str,
    framework_name: str,
    batch_size: int,
    rounds: int,
    num_threads: int | None,
    results: Results,
    parts: Collection[str] = PARTS,
) -> None:
    """Measures what the results lack.

    Args:
      workload_name: Name of the workload.
      framework_name: `'pytorch'` or `'jax'`.
      batch_size: Examples in a batch.
      rounds: Rounds of the interval times, and steps of each kind for the parts.
      num_threads: Threads within an operation; None leaves the framework's choice.
      results: Where the results are and go.
      parts: Which of `PARTS` to measure.
    """

    # Only made if a part is missing that needs them: in JAX they compile.
    @functools.cache
    def runs() -> dict[str, Run]:
        workload = registry.load_workload(workload_name, framework_name)
        # So that there are steps with new factors and the inverses of before.
        chosen = points(inverse_interval=2 * INTERVAL)
        return start_all(workload, framework_name, chosen, batch_size)

    def steps() -> dict[str, Any]:
        seconds = intervals.measure(runs(), rounds)
        return {
            'summary': intervals.summarise(seconds),
            'compilation_seconds': {
                name: {str(k): v for k, v in run.training.compilation.items()}
                for name, run in runs().items()
            },
            'seconds': seconds,
        }

    if 'steps' in parts:
        results.ensure('steps', steps)
    if 'breakdown' in parts:
        results.ensure(
            'breakdown', lambda: breakdown.measure(framework_name, runs(), rounds)
        )
    for method in points() if 'memory' in parts else ():
        results.ensure(
            f'memory, {method}',
            functools.partial(
                memory.measure,
                workload_name,
                framework_name,
                method,
                batch_size,
                num_threads,
            ),
        )


def report(results: Results, title: str, parts: Collection[str] = PARTS) -> str:
    """Draws the plots and returns the tables.

    Args:
      results: The results.
      title: Title of the plots.
      parts: Which of `PARTS` to report.

    Raises:
      ValueError: If something is missing of these.
    """
    found, path = results.parts, results.path
    names = {part: {part: part} for part in PARTS}
    names['memory'] = {method: f'memory, {method}' for method in points()}
    missing = [
        name for part in parts for name in names[part].values() if name not in found
    ]
    if missing:
        raise ValueError(f'{path} lacks {missing}; measure them, without --report.')
    text = []
    if 'steps' in parts:
        steps = found['steps']
        plots.plot_intervals(
            steps['summary'], title, path.with_name(f'{path.stem}_intervals.png')
        )
        text.append(tables.of_steps(steps['summary'], steps['compilation_seconds']))
    if 'breakdown' in parts:
        plots.plot_breakdown(
            found['breakdown'], title, path.with_name(f'{path.stem}_breakdown.png')
        )
        text.append(tables.of_breakdown(found['breakdown']))
    if 'memory' in parts:
        peaks = {method: found[name] for method, name in names['memory'].items()}
        text.append(tables.of_memory(peaks))
    return '\n\n'.join(text)


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum(
        'framework', 'pytorch', trials.FRAMEWORKS, 'Framework to train in.'
    )
    flags.DEFINE_integer(
        'rounds', 12, 'Rounds that count, and steps of each kind for the parts.'
    )
    flags.DEFINE_integer(
        'batch_size', None, "Examples in a batch; the submission's if not given."
    )
    flags.DEFINE_integer(
        'num_threads', None, "Threads; the framework's choice if not given."
    )
    flags.DEFINE_string(
        'output_dir', 'experiments/results/step_time', 'Where results go.'
    )
    flags.DEFINE_multi_enum(
        'parts', list(PARTS), PARTS, 'What to measure and report; may be repeated.'
    )
    flags.DEFINE_bool('report', False, 'Print tables and draw plots only.')


def main() -> None:
    """Measures, prints the tables, and draws the plots."""
    # The submission says for each run who trains which parameter.
    logging.set_verbosity(logging.WARNING)
    values: Any = flags.FLAGS
    workload_name, framework_name = values.workload, values.framework
    path = pathlib.Path(values.output_dir) / f'{workload_name}_{framework_name}.json'
    if values.report:
        results = Results.load(path)
    else:
        if values.num_threads is not None:
            frameworks.load(framework_name).set_num_threads(values.num_threads)
        batch_size = values.batch_size or batch_size_for(get_batch_size, workload_name)
        conditions = {
            'machine': trials.machine(framework_name),
            'batch_size': batch_size,
            'rounds': values.rounds,
        }
        results = Results.open(path, conditions)
        measure_all(
            workload_name,
            framework_name,
            batch_size,
            values.rounds,
            values.num_threads,
            results,
            values.parts,
        )
    batch_size = results.conditions['batch_size']
    title = f'{workload_name}, {framework_name}, batch of {batch_size}'
    print(report(results, title, values.parts))
    print(f'\nWritten to {path}')


if __name__ == '__main__':
    define_flags()
    command.run(main)

r"""Measures the time to the target of K-FAC and its rivals.

Example::

    pip install -c constraints.txt -e '.[peers]'
    python -m experiments.time_to_target --workload=ogbg_chembl --seeds=0,1,2,3,4

By AlgoPerf's protocol: every method has one search space of five points, the same for
all workloads (on wider variants of them five learning rates of one of these points,
see `choose_rates`, and the submission its own); each seed is a study of five trials, of
which the one that reaches the validation target first counts; the score is the median
over seeds.

Steps to the target are those of the runs. Seconds to the target are these steps times
the seconds of a step that `--step_times` measures, all methods in turn on an otherwise
idle machine, since the runs themselves share it. Measuring some `--methods` again keeps
the times of the others; NAdamW is always among those measured, and what was timed
earlier is multiplied by so much that NAdamW's step is the same. A method without a step
time has no seconds.

Records go to `experiments/results/time_to_target/<workload>_<framework>/records.jsonl`
as they come, and a run that is stopped goes on where it was; `--report` trains nothing
and writes `summary.json`, `table.md` and the plots from what there is.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import command, plots, trials
from experiments.seeds import parse_seeds
from experiments.time_to_target import (
    profile_plot,
    recorded,
    scores,
    step_times,
    study,
    table,
)
from experiments.time_to_target.methods import (
    EVERY_STEP,
    RESULTS,
    Method,
    all_methods,
    main_methods,
)
from workloads_overrides import registry


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework.')
    flags.DEFINE_list(
        'methods', [], 'Methods; all that the framework has if not given.'
    )
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds, a study for each.')
    flags.DEFINE_integer('eval_every_steps', 25, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('processes', 2, 'Trials at once.', 1)
    flags.DEFINE_integer('num_threads', 1, 'Threads of each.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')
    flags.DEFINE_string(
        'folder', 'runs/time_to_target', "Folder of the runner's files."
    )
    flags.DEFINE_bool(
        'checkpoints',
        True,
        'Let trials under way go on after a kill; those of large models take long.',
    )
    flags.DEFINE_bool('step_times', False, 'Measure the seconds of a step instead.')
    flags.DEFINE_integer('rounds', 10, 'Rounds of that measurement.', 1)
    flags.DEFINE_bool('report', False, 'Write tables and plots only.')


def chosen_methods(
    names: Sequence[str], workload: str, framework: str
) -> dict[str, Method]:
    """Returns the methods to train, by name.

    Raises:
      ValueError: For an unknown method, or one that the framework lacks.
    """
    available = {
        name: method
        for name, method in all_methods(workload).items()
        if framework in trials.SUBMISSION_PATHS[method.submission]
    }
    for name in names:
        if name not in available:
            raise ValueError(
                f'No method {name!r} in {framework}; there are {", ".join(available)}.'
            )
    wanted = names or main_methods(workload)
    return {name: available[name] for name in wanted if name in available}


def report(workload_name: str, framework: str, folder: pathlib.Path) -> str:
    """Writes `summary.json`, `table.md` and the plots; returns the table.

    Raises:
      ValueError: If no study is complete.
    """
    found = recorded.load(workload_name, framework, folder)
    studies, times, target = found.studies, found.times, found.target
    methods = all_methods(workload_name)
    labels = {name: method.label for name, method in methods.items()}
    summary = scores.summarise(studies, times.costs)
    main = [name for name in main_methods(workload_name) if name in studies]
    text = table.format_table(summary, labels, times.scales)
    (folder / 'table.md').write_text(text + '\n')
    (folder / 'summary.json').write_text(
        json.dumps(
            {
                'workload': workload_name,
                'framework': framework,
                'target': target,
                'methods': summary,
            },
            indent=1,
        )
        + '\n'
    )
    title = f'{workload_name}: {found.metric}'
    every_step = [name for name in ('nadamw', *EVERY_STEP) if name in studies]
    figures = {'curves.png': main}
    if len(every_step) > 1:
        figures['every_step.png'] = every_step
    for file, names in figures.items():
        plots.plot_curves(
            {name: [s.best for s in studies[name]] for name in names},
            target,
            title,
            folder / file,
            labels=labels,
            costs=times.costs,
        )
    profile_plot.plot_profile(
        {
            quantity: scores.performance_profile(
                {name: studies[name] for name in main}, quantity
            )
            for quantity in scores.QUANTITIES
        },
        title,
        folder / 'profile.png',
        labels=labels,
    )
    return text


def main() -> None:
    """Trains, or measures step times, or only reports."""
    given = flags.FLAGS
    name, framework = given.workload, given.framework
    folder = pathlib.Path(given.output_dir) / f'{name}_{framework}'
    methods = chosen_methods(given.methods, name, framework)
    workload = registry.load_workload(name, framework)
    if given.step_times:
        step_times.measure(name, framework, methods, folder, given.rounds)
        if not recorded.records_path(folder).exists():
            print(f'Step times written to {folder}')
            return
    elif not given.report:
        path = recorded.records_path(folder)
        studies = study.make_studies(
            methods.items(),
            name,
            framework,
            parse_seeds(given.seeds),
            trials.load_records(path),
            workload.validation_target_value,
        )
        study.run_studies(
            studies,
            path,
            pathlib.Path(given.folder) / f'{name}_{framework}',
            target=workload.validation_target_value,
            eval_every_steps=given.eval_every_steps,
            processes=given.processes,
            num_threads=given.num_threads,
            save_checkpoints=given.checkpoints,
        )
    text = report(name, framework, folder)
    print(text)
    print(f'\nWritten to {folder}')


if __name__ == '__main__':
    define_flags()
    command.run(main)

r"""Compares K-FAC-expand, K-FAC-reduce and the NAdamW reference: `make run`.

Each method trains the workload once with the same seed, the initial parameters and
the data order included, through the built-in runner. NAdamW takes the workload's
reference hyperparameters (`experiments/references.json`, set by
`experiments.set_targets`), K-FAC the submission's defaults, whatever the workload.

Prints a table and writes, to `runs/<workload>_<framework>/`, `summary.json`,
`details.json` (curves, hyperparameters, seed, machine) and `comparison.png`; with
another seed than 0 the folder is `<workload>_<framework>_seed_<seed>`.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from experiments import command, plots, text_tables, trials
from submission.settings import Settings
from workloads_overrides import registry

ROOT = pathlib.Path(__file__).parent.parent
REFERENCES = ROOT / 'experiments' / 'references.json'
METHODS = ('nadamw', 'kfac_expand', 'kfac_reduce')
LABELS = {
    'nadamw': 'NAdamW (tuned reference)',
    'kfac_expand': 'K-FAC-expand',
    'kfac_reduce': 'K-FAC-reduce',
}


def reference_of(workload: str) -> dict[str, Any]:
    """Returns the NAdamW reference of a workload, as `set_targets` wrote it.

    Args:
      workload: Name of the workload; a variant has the reference of its base.

    Raises:
      ValueError: If the workload is unknown, or has no reference.
    """
    references = json.loads(REFERENCES.read_text())
    name = registry.base_name(workload)
    if name not in references:
        raise ValueError(
            f'{REFERENCES} has no NAdamW reference for workload {name!r}; it has '
            f'{", ".join(references)}. Run python -m experiments.set_targets '
            f'--workload={name}.'
        )
    reference: dict[str, Any] = references[name]
    return reference


def hyperparameters_of(method: str, workload: str) -> dict[str, Any]:
    """Returns the hyperparameters that a method runs with.

    Args:
      method: One of `METHODS`.
      workload: Name of the workload; only the NAdamW reference depends on it.

    Raises:
      ValueError: If there is no reference for the workload.
    """
    if method == 'nadamw':
        return dict(reference_of(workload)['hyperparameters'])
    approximation: Any = method.removeprefix('kfac_')
    return dataclasses.asdict(Settings(approximation=approximation))


def folder_of(
    output_dir: pathlib.Path, workload: str, framework: str, seed: int
) -> pathlib.Path:
    """Returns the folder of a comparison, one for each seed."""
    suffix = f'_seed_{seed}' if seed else ''
    return output_dir / f'{workload}_{framework}{suffix}'


def clear(folder: pathlib.Path) -> None:
    """Deletes a complete comparison, and nothing else that is in its folder."""
    shutil.rmtree(folder / 'trials', ignore_errors=True)
    # The summary, which says that all is there, goes last.
    for name in ('comparison.png', 'details.json', 'summary.json'):
        (folder / name).unlink(missing_ok=True)


def compare(
    workload: str,
    framework: str,
    seed: int,
    folder: pathlib.Path,
    eval_every_steps: int,
    num_threads: int | None,
) -> dict[str, trials.Record]:
    """Trains every method and returns method name to record.

    A comparison that was cut short goes on where it was; a complete one in `folder`
    is replaced.
    """
    points = {method: hyperparameters_of(method, workload) for method in METHODS}
    # A mistake in the reference should not cost an earlier comparison.
    Settings.from_hyperparameters(points['nadamw'])
    if (folder / 'summary.json').exists():
        clear(folder)
    elif folder.exists():
        logging.info('Going on with the comparison in %s.', folder)
    records = {}
    for number, (method, point) in enumerate(points.items(), start=1):
        trial = trials.Trial(method, workload, framework, point, seed)
        print(
            f'[{number}/{len(METHODS)}] {method} on {workload}, at most '
            f'{trials.schedule_steps(trial)} steps',
            flush=True,
        )
        records[method] = trials.run(
            trial,
            folder / 'trials' / method,
            eval_every_steps=eval_every_steps,
            num_threads=num_threads,
            stop_at_targets=True,
            resume=True,
        )
    return records


def summarise(
    workload: str,
    framework: str,
    target: float,
    records: Mapping[str, trials.Record],
) -> dict[str, Any]:
    """Returns the content of `summary.json`."""
    return {
        'workload': workload,
        'framework': framework,
        'target': target,
        'methods': {
            method: {
                'steps_to_target': record.steps_to(target),
                'seconds_to_target': record.seconds_to(target),
                'training_seconds_to_target': record.training_seconds_to(target),
                'compilation_seconds': record.compilation_seconds,
                'seconds_per_step': record.seconds_per_step,
                'final_metric': record.validation[-1],
            }
            for method, record in records.items()
        },
    }


def format_table(summary: Mapping[str, Any]) -> str:
    """Formats a summary as a table, with each method's ratio to NAdamW.

    Where something was compiled, the seconds are given with and without that.
    """
    methods = summary['methods']
    reference = methods['nadamw']
    compiles = any(values['compilation_seconds'] for values in methods.values())
    header = [
        'method',
        'steps to target',
        'seconds to target',
        *(['compiling', 'without'] if compiles else []),
        'ms a step',
        'steps / NAdamW',
        'seconds / NAdamW',
        *(['without / NAdamW'] if compiles else []),
        'final metric',
    ]
    rows = []
    for method, values in methods.items():
        compiling = (
            f'{values["compilation_seconds"]:.1f}',
            _number(values['training_seconds_to_target'], '.1f'),
        )
        without = _ratio(values, reference, 'training_seconds_to_target')
        rows.append(
            [
                method,
                _number(values['steps_to_target'], '.0f'),
                _number(values['seconds_to_target'], '.1f'),
                *(compiling if compiles else []),
                f'{1e3 * values["seconds_per_step"]:.1f}',
                _ratio(values, reference, 'steps_to_target'),
                _ratio(values, reference, 'seconds_to_target'),
                *([without] if compiles else []),
                f'{values["final_metric"]:.4f}',
            ]
        )
    return text_tables.aligned(header, rows)


def _number(value: float | None, spec: str) -> str:
    return 'not reached' if value is None else format(value, spec)


def _ratio(values: Mapping[str, Any], reference: Mapping[str, Any], key: str) -> str:
    if values[key] is None or reference[key] is None:
        return '-'
    return f'{values[key] / reference[key]:.3f}'


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum('framework', 'pytorch', trials.FRAMEWORKS, 'Framework to use.')
    flags.DEFINE_integer('seed', 0, 'Seed of all methods.', 0)
    flags.DEFINE_string('output_dir', 'runs', 'Where results go.')
    flags.DEFINE_integer('eval_every_steps', 20, 'Steps between evaluations.', 1)
    flags.DEFINE_integer('num_threads', None, 'Threads within an operation.', 1)


def main() -> None:
    """Runs the comparison, prints the table and writes the files."""
    if not sys.stderr.isatty():
        # There is no progress bar then; the log tells how far a run is.
        logging.set_verbosity(logging.INFO)
    name, framework = flags.FLAGS.workload, flags.FLAGS.framework
    seed = flags.FLAGS.seed
    folder = folder_of(pathlib.Path(flags.FLAGS.output_dir), name, framework, seed)
    workload = registry.load_workload(name, framework)
    records = compare(
        name,
        framework,
        seed,
        folder,
        flags.FLAGS.eval_every_steps,
        flags.FLAGS.num_threads,
    )
    target = workload.validation_target_value
    summary = summarise(name, framework, target, records)
    details = {
        **summary,
        'seed': seed,
        'records': {m: dataclasses.asdict(record) for m, record in records.items()},
    }
    plots.plot_curves(
        {method: [record] for method, record in records.items()},
        target,
        f'{name}: {workload.target_metric_name}',
        folder / 'comparison.png',
        LABELS,
    )
    (folder / 'details.json').write_text(json.dumps(details, indent=1) + '\n')
    (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    print(f'\nTarget: validation {workload.target_metric_name} above {target}\n')
    print(format_table(summary))
    print(f'\nWritten to {folder}: summary.json, details.json, comparison.png')


if __name__ == '__main__':
    define_flags()
    command.run(main)

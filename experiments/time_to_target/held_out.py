r"""Compares methods on held-out workloads, at the points chosen on others.

Example::

    python -m experiments.time_to_target.held_out

Held-out workloads change the model of one of the workloads that all hyperparameters
were chosen on, as AlgoPerf's held-out workloads do. Each method has the five points
that it has there. Trials come from

    python -m experiments.time_to_target.held_out_targets --workload=...
    python -m experiments.time_to_target --workload=... --seeds=0

and `--step_times` of the latter; this trains nothing. It writes `held_out.md`: medians
over seeds of the steps to the target of the best trial, of the same in units of
NAdamW's, and of the seconds in units of NAdamW's, with geometric means over the
workloads.
"""

import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from experiments import command, text_tables
from experiments.time_to_target import recorded
from experiments.time_to_target.methods import RESULTS, all_methods
from experiments.time_to_target.recorded import Recorded
from experiments.time_to_target.scores import StudyScore
from workloads_overrides import registry

_REFERENCE = 'nadamw'
# Median of a method on a workload; infinity where it did not get there, None where it
# was not tried or timed.
Medians = Mapping[str, Mapping[str, float | None]]


def medians(
    results: Mapping[str, Recorded], quantity: Callable[[StudyScore], float | None]
) -> Medians:
    """Returns the median of a quantity over seeds, by method and workload.

    Args:
      results: Workload name to what was recorded.
      quantity: What to take of each study.
    """
    names = dict.fromkeys(name for found in results.values() for name in found.studies)
    return {
        name: {
            workload: _median(
                [quantity(study) for study in found.studies.get(name, [])]
            )
            for workload, found in results.items()
        }
        for name in names
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return statistics.median(known)


def ratios(of_all: Medians) -> Medians:
    """Returns medians in units of NAdamW's on the same workload."""
    return {
        name: {
            workload: _ratio(value, of_all[_REFERENCE][workload])
            for workload, value in of_method.items()
        }
        for name, of_method in of_all.items()
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None or math.isinf(reference):
        return None
    return value / reference


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Returns the geometric mean; None if a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return math.exp(statistics.fmean(map(math.log, known)))


def format_tables(results: Mapping[str, Recorded], labels: Mapping[str, str]) -> str:
    """Formats steps to the target, and the two ratios.

    Args:
      results: Workload name to what was recorded.
      labels: Method name to its name in the tables.
    """
    steps = medians(results, lambda study: study.steps)
    seconds = medians(results, lambda study: study.seconds)
    in_steps, in_seconds = ratios(steps), ratios(seconds)
    means = [
        {name: geometric_mean([*row.values()]) for name, row in table.items()}
        for table in (in_steps, in_seconds)
    ]
    order = sorted(steps, key=lambda name: _or_inf(means[0][name]))
    columns = [*results, 'geometric mean / NAdamW']
    of_steps = [
        [
            labels[name],
            *(_cell(steps[name][w], in_steps[name][w]) for w in results),
            _number(means[0][name], '.2f'),
        ]
        for name in order
    ]
    tables = [text_tables.markdown(['Steps', *columns], of_steps)]
    if any(mean is not None for mean in means[1].values()):
        of_seconds = [
            [
                labels[name],
                *(_number(in_seconds[name][w], '.2f') for w in results),
                _number(means[1][name], '.2f'),
            ]
            for name in order
        ]
        tables.append(text_tables.markdown(['Seconds / NAdamW', *columns], of_seconds))
    return '\n\n'.join(tables)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value


def _number(value: float | None, spec: str) -> str:
    if value is None:
        return '-'
    return 'never' if math.isinf(value) else format(value, spec)


def _cell(steps: float | None, ratio: float | None) -> str:
    if ratio is None or math.isinf(ratio):
        return _number(steps, '.0f')
    return f'{_number(steps, ".0f")} ({ratio:.2f})'


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('framework', 'pytorch', 'Framework that trained.')
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')


def main() -> None:
    """Writes and prints the tables.

    Raises:
      ValueError: If no held-out workload has records.
    """
    given = flags.FLAGS
    output = pathlib.Path(given.output_dir)
    folders = {
        name: output / f'{name}_{given.framework}'
        for name in registry.WORKLOADS
        if registry.is_held_out(name)
    }
    results = {
        name: recorded.load(name, given.framework, folder)
        for name, folder in folders.items()
        if recorded.records_path(folder).exists()
    }
    if not results:
        raise ValueError(
            f'{output} has no records of a held-out workload; there are '
            f'{", ".join(folders)}. First run python -m '
            'experiments.time_to_target.held_out_targets --workload=...'
        )
    labels = {
        name: method.label
        for workload in results
        for name, method in all_methods(workload).items()
    }
    text = format_tables(results, labels)
    (output / f'held_out_{given.framework}.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    define_flags()
    command.run(main)

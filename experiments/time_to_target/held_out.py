r"""Compares methods on held-out workloads, at the points chosen on others.

Example::

    python -m experiments.time_to_target.held_out

Held-out workloads change the model of one of the workloads that all hyperparameters
were chosen on, as AlgoPerf's held-out workloads do. Each method has the five points
that it has there. Trials come from

    python -m experiments.time_to_target.held_out_targets --workload=...
    python -m experiments.time_to_target --workload=... --seeds=0

and `--step_times` of the latter; this trains nothing. It writes `held_out_*.md`:
medians over seeds of the steps to the target of the best trial, of the same in units of
NAdamW's, and of the seconds in units of NAdamW's. Below are geometric means over the
workloads, and the score that AlgoPerf would give: the performance profile (the share of
workloads where a method takes at most tau times the steps of the fastest), averaged
over tau from 1 to 4.
"""

import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from experiments import command, text_tables
from experiments.time_to_target import recorded, scores
from experiments.time_to_target.methods import RESULTS, all_methods
from experiments.time_to_target.recorded import Recorded
from experiments.time_to_target.scores import StudyScore
from workloads_overrides import registry

_REFERENCE = 'nadamw'
# AlgoPerf's largest multiple of the fastest time.
_MOST_TAU = 4.0
# A quantity of a method by workload; infinity where it did not get there, None where it
# was not tried or timed.
ByWorkload = Mapping[str, float | None]
Quantities = Mapping[str, ByWorkload]


def medians(
    results: Mapping[str, Recorded], quantity: Callable[[StudyScore], float | None]
) -> Quantities:
    """Returns the median of a quantity over seeds, by method and workload.

    Args:
      results: Workload name to what was recorded.
      quantity: What to take of each study.
    """
    names = dict.fromkeys(name for found in results.values() for name in found.studies)
    return {
        name: {
            workload: scores.median([quantity(study) for study in found.studies[name]])
            if name in found.studies
            else None
            for workload, found in results.items()
        }
        for name in names
    }


def ratios(of_all: Quantities, reference: ByWorkload) -> Quantities:
    """Returns quantities in units of a reference on the same workload.

    Args:
      of_all: The quantities.
      reference: The reference; nothing is a multiple of what is missing or infinite.
    """
    return {
        name: {
            workload: _ratio(value, reference[workload])
            for workload, value in of_method.items()
        }
        for name, of_method in of_all.items()
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None or math.isinf(reference):
        return None
    return value / reference


def fastest(of_all: Quantities) -> ByWorkload:
    """Returns the least of a quantity over methods, by workload."""
    workloads = next(iter(of_all.values()))
    return {
        workload: min(
            (x for row in of_all.values() if (x := row[workload]) is not None),
            default=None,
        )
        for workload in workloads
    }


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Returns the geometric mean; None if a value is missing."""
    known = scores.measured(values)
    if not known:
        return None
    return math.exp(statistics.fmean(map(math.log, known)))


def score(multiples: Sequence[float | None]) -> float | None:
    """Returns AlgoPerf's score, from 0 to 1; None if a multiple is missing.

    Args:
      multiples: For each workload the time in units of the fastest method's.
    """
    known = scores.measured(multiples)
    if not known:
        return None
    # The profile steps up at each multiple, so that its integral is a sum.
    return statistics.fmean(
        max(0.0, _MOST_TAU - value) / (_MOST_TAU - 1) for value in known
    )


def format_tables(results: Mapping[str, Recorded], labels: Mapping[str, str]) -> str:
    """Formats steps to the target, and seconds in units of NAdamW's.

    Args:
      results: Workload name to what was recorded; NAdamW is in all of them.
      labels: Method name to its name in the tables.
    """
    steps = medians(results, lambda study: study.steps)
    seconds = medians(results, lambda study: study.seconds)
    in_steps, in_seconds = (ratios(x, x[_REFERENCE]) for x in (steps, seconds))
    order = sorted(steps, key=lambda name: _order(in_steps[name]))
    tables = [
        _table(
            'Steps',
            [labels[name] for name in order],
            [
                [w, *(_cell(steps[name][w], in_steps[name][w]) for name in order)]
                for w in results
            ],
            [in_steps[name] for name in order],
            _scores(steps, order),
        )
    ]
    timed = [
        name for name in order if any(x is not None for x in in_seconds[name].values())
    ]
    if timed:
        tables.append(
            _table(
                'Seconds / NAdamW',
                [labels[name] for name in timed],
                [
                    [w, *(_number(in_seconds[name][w], '.2f') for name in timed)]
                    for w in results
                ],
                [in_seconds[name] for name in timed],
                _scores(seconds, timed),
            )
        )
    return '\n\n'.join(tables)


def _table(
    title: str,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    of_methods: Sequence[ByWorkload],
    of_all: Sequence[float | None],
) -> str:
    means = [geometric_mean([*ratios.values()]) for ratios in of_methods]
    last = [
        ['geometric mean / NAdamW', *(_number(mean, '.2f') for mean in means)],
        ["AlgoPerf's score", *(_number(value, '.2f') for value in of_all)],
    ]
    return text_tables.markdown([title, *names], [*rows, *last])


def _scores(of_all: Quantities, order: Sequence[str]) -> list[float | None]:
    multiples = ratios(of_all, fastest(of_all))
    return [score([*multiples[name].values()]) for name in order]


def _order(in_steps: ByWorkload) -> tuple[int, float]:
    """Sorts by how many workloads are missing, then by the mean of the others."""
    known = [value for value in in_steps.values() if value is not None]
    mean = geometric_mean(known)
    return len(in_steps) - len(known), math.inf if mean is None else mean


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

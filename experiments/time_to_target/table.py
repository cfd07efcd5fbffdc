"""The Markdown table of a workload."""

from collections.abc import Mapping
from typing import Any

from experiments import text_tables

_COLUMNS = (
    'Method',
    'Seeds reached',
    'Steps to target',
    '/ NAdamW',
    'Seconds',
    '/ NAdamW',
    'ms a step',
)
_OF_COMPILATION = ('of them compiling', 'without / NAdamW')


def format_table(summary: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Formats a summary, the fastest method first.

    Where something was compiled, two more columns say how much that took.

    Args:
      summary: Method name to scores, from `scores.summarise`.
      labels: Method name to its name in the table.
    """

    def seconds(item: tuple[str, Any]) -> float:
        median = item[1]['seconds_to_target']['median']
        return float('inf') if median is None else median

    reference = summary.get('nadamw')
    compiles = any(scores['compilation_seconds'] for scores in summary.values())
    columns = (*_COLUMNS, *(_OF_COMPILATION if compiles else ()))
    rows = []
    for method, scores in sorted(summary.items(), key=seconds):
        per_step, n_seeds = scores['seconds_per_step'], len(scores['seeds'])
        cells = [
            labels[method],
            f'{scores["reached"]} of {n_seeds}',
            _spread(scores['steps_to_target'], n_seeds, '.0f'),
            _ratio(scores, reference, 'steps_to_target'),
            _spread(scores['seconds_to_target'], n_seeds, '.1f'),
            _ratio(scores, reference, 'seconds_to_target'),
            '-' if per_step is None else f'{1e3 * per_step:.1f}',
        ]
        if compiles:
            cells += [
                f'{scores["compilation_seconds"]:.1f}',
                _ratio(scores, reference, 'seconds_without_compilation'),
            ]
        rows.append(cells)
    return text_tables.markdown(columns, rows)


def _number(value: float | None, spec: str) -> str:
    return 'never' if value is None else format(value, spec)


def _spread(values: Mapping[str, float | None], n_seeds: int, spec: str) -> str:
    median = _number(values['median'], spec)
    if n_seeds == 1:
        return median
    lowest, highest = (_number(values[key], spec) for key in ('lowest', 'highest'))
    return f'{median} ({lowest} to {highest})'


def _ratio(
    scores: Mapping[str, Any], reference: Mapping[str, Any] | None, quantity: str
) -> str:
    if reference is None:
        return '-'
    value, base = scores[quantity]['median'], reference[quantity]['median']
    return '-' if value is None or base is None else f'{value / base:.2f}'

"""The Markdown table of a workload."""

import math
from collections.abc import Iterator, Mapping
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


def format_table(
    summary: Mapping[str, Any],
    labels: Mapping[str, str],
    scales: Mapping[str, float],
) -> str:
    """Formats a summary, the fastest method first, with notes below.

    Where something was compiled, two more columns say how much that took.

    Args:
      summary: Method name to scores, from `scores.summarise`.
      labels: Method name to its name in the table.
      scales: Methods whose seconds are from an earlier measurement than those of others
        to what they were multiplied by, from `step_times.load`.
    """
    reference = summary.get('nadamw')
    compiles = any(scores['compilation_seconds'] for scores in summary.values())
    columns = (*_COLUMNS, *(_OF_COMPILATION if compiles else ()))
    rows = []
    for method, scores in sorted(summary.items(), key=_order):
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
                _number(scores['compilation_seconds'], '.1f', none='-'),
                _ratio(scores, reference, 'seconds_without_compilation'),
            ]
        rows.append(cells)
    table = text_tables.markdown(columns, rows)
    return '\n'.join([table, *_notes(summary, labels, scales)])


def _order(item: tuple[str, Mapping[str, Any]]) -> tuple[float, float]:
    """By seconds; then what was not timed, by steps; what never got there last."""
    medians = [
        None if spread is None else spread['median']
        for spread in (item[1]['seconds_to_target'], item[1]['steps_to_target'])
    ]
    seconds, steps = (math.inf if median is None else median for median in medians)
    return seconds, steps


def _notes(
    summary: Mapping[str, Any],
    labels: Mapping[str, str],
    scales: Mapping[str, float],
) -> Iterator[str]:
    untimed = [
        labels[method]
        for method, scores in summary.items()
        if scores['seconds_per_step'] is None
    ]
    if untimed:
        yield (
            f'\nNo seconds where the step has not been timed (`--step_times`): '
            f'{", ".join(untimed)}.'
        )
    scaled = [
        f'{labels[method]} ({scale:.2f})'
        for method, scale in scales.items()
        if method in summary
    ]
    if scaled:
        yield (
            '\nTimed earlier than the others, the seconds multiplied by so much that '
            f"NAdamW's step is the same in both measurements: {', '.join(scaled)}."
        )


def _number(value: float | None, spec: str, none: str = 'never') -> str:
    return none if value is None else format(value, spec)


def _spread(values: Mapping[str, float | None] | None, n_seeds: int, spec: str) -> str:
    if values is None:
        return '-'
    median = _number(values['median'], spec)
    if n_seeds == 1:
        return median
    lowest, highest = (_number(values[key], spec) for key in ('lowest', 'highest'))
    return f'{median} ({lowest} to {highest})'


def _ratio(
    scores: Mapping[str, Any], reference: Mapping[str, Any] | None, quantity: str
) -> str:
    if reference is None or scores[quantity] is None or reference[quantity] is None:
        return '-'
    value, base = scores[quantity]['median'], reference[quantity]['median']
    return '-' if value is None or base is None else f'{value / base:.2f}'

"""The Markdown table of a workload."""

from collections.abc import Mapping
from typing import Any

_HEADER = (
    '| Method | Seeds reached | Steps to target | / NAdamW | Seconds | / NAdamW '
    '| ms a step |\n'
    '| --- | --- | --- | --- | --- | --- | --- |'
)


def format_table(summary: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Formats a summary, the fastest method first.

    Args:
      summary: Method name to scores, from `scores.summarise`.
      labels: Method name to its name in the table.
    """

    def seconds(item: tuple[str, Any]) -> float:
        median = item[1]['seconds_to_target']['median']
        return float('inf') if median is None else median

    reference = summary.get('nadamw')
    lines = [_HEADER]
    for method, scores in sorted(summary.items(), key=seconds):
        per_step = scores['seconds_per_step']
        cells = [
            labels[method],
            f'{scores["reached"]} of {len(scores["seeds"])}',
            _spread(scores['steps_to_target'], '.0f'),
            _ratio(scores, reference, 'steps_to_target'),
            _spread(scores['seconds_to_target'], '.1f'),
            _ratio(scores, reference, 'seconds_to_target'),
            '-' if per_step is None else f'{1e3 * per_step:.1f}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _number(value: float | None, spec: str) -> str:
    return 'never' if value is None else format(value, spec)


def _spread(values: Mapping[str, float | None], spec: str) -> str:
    return (
        f'{_number(values["median"], spec)} ({_number(values["lowest"], spec)} to '
        f'{_number(values["highest"], spec)})'
    )


def _ratio(
    scores: Mapping[str, Any], reference: Mapping[str, Any] | None, quantity: str
) -> str:
    if reference is None:
        return '-'
    value, base = scores[quantity]['median'], reference[quantity]['median']
    return '-' if value is None or base is None else f'{value / base:.2f}'

"""The Markdown table of the variations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import text_tables
from experiments.compare import LABELS
from experiments.steps_to_target import format_steps, median_steps
from experiments.trials import Record
from experiments.variations.points import METHODS
from experiments.variations.results import Results, final_metric, ran_to_the_end
from experiments.variations.tried import BASE, Variation

_HEADER = (
    'Variation',
    'What it tests',
    'Steps to target',
    '/ base',
    'Metric at the end',
    '- base',
)
_STOPPED = (
    '\\* A trial of the row ended as it reached the target, so this is not what the '
    'schedule ends with; `--full` trains on.'
)


def format_table(
    variations: Sequence[Variation],
    bases: Mapping[str, Mapping[str, Any]],
    results: Results,
) -> str:
    """Formats a table for each approximation, the fewest steps first.

    Args:
      variations: The variations, the base point among them.
      bases: Approximation to base point.
      results: What has been recorded; variations that lack a seed are named below.
    """
    parts = [results.describe()]
    for approximation, base in bases.items():
        rows = [
            (variation, results.runs_of(variation.point(base)))
            for variation in variations
            if variation.applies_to(approximation)
        ]
        trained = [(variation, runs) for variation, runs in rows if runs]
        parts.append(f'## {LABELS[METHODS[approximation]]}')
        parts.append(_format_rows(trained, results.target))
        lacking = [variation.name for variation, runs in rows if not runs]
        if lacking:
            parts.append(f'Not trained with all seeds yet: {", ".join(lacking)}.')
    if any('\\*' in part for part in parts):
        parts.append(_STOPPED)
    return '\n\n'.join(parts)


def _format_rows(
    trained: Sequence[tuple[Variation, Sequence[Record]]], target: float
) -> str:
    base = next((runs for variation, runs in trained if variation.name == BASE), None)

    def rank(row: tuple[Variation, Sequence[Record]]) -> tuple[float, float]:
        return median_steps(row[1], target), -final_metric(row[1])

    rows = [
        (
            variation.name,
            variation.description,
            format_steps(runs, target),
            _ratio(runs, base, target),
            _metric(runs),
            _difference(runs, base),
        )
        for variation, runs in sorted(trained, key=rank)
    ]
    return text_tables.markdown(_HEADER, rows)


def _ratio(runs: Sequence[Record], base: Sequence[Record] | None, target: float) -> str:
    if base is None:
        return '-'
    steps, of_base = median_steps(runs, target), median_steps(base, target)
    both = math.isfinite(steps) and math.isfinite(of_base)
    return f'{steps / of_base:.2f}' if both else '-'


def _are_full(runs: Sequence[Record]) -> bool:
    return all(ran_to_the_end(run) for run in runs)


def _metric(runs: Sequence[Record]) -> str:
    metric = final_metric(runs)
    shown = f'{metric:.4f}' if math.isfinite(metric) else 'not finite'
    return shown if _are_full(runs) else f'{shown}\\*'


def _difference(runs: Sequence[Record], base: Sequence[Record] | None) -> str:
    if base is None or not (_are_full(runs) and _are_full(base)):
        return '-'
    difference = final_metric(runs) - final_metric(base)
    return f'{difference:+.4f}' if math.isfinite(difference) else '-'

"""Tables of the results."""

from collections.abc import Mapping
from typing import Any

from experiments import text_tables
from experiments.step_time.breakdown import PARTS
from experiments.step_time.variants import NADAMW


def of_steps(
    summary: Mapping[str, Any], compilation: Mapping[str, Mapping[str, float]]
) -> str:
    """Formats seconds a step by interval, and what was compiled.

    Args:
      summary: What `intervals.summarise` returned.
      compilation: Run to seconds of compilation by step.
    """
    rows = []
    for name, columns in summary.items():
        for column, values in columns.items():
            if name != NADAMW:
                rows.append(
                    [
                        name,
                        column,
                        _with_quartiles(values, 'milliseconds', '.1f'),
                        _with_quartiles(values, 'ratio', '.3f'),
                        'derived' if values['derived'] else '',
                    ]
                )
    nadamw = _with_quartiles(summary[NADAMW]['plain'], 'milliseconds', '.1f')
    lines = [
        'Medians, with quartiles.',
        f'NAdamW: {nadamw} ms a step',
        '',
        text_tables.aligned(
            ['method', 'steps', 'ms a step', 'ratio to NAdamW', ''], rows
        ),
    ]
    for name, seconds in compilation.items():
        if seconds:
            steps = ', '.join(f'{s:.1f} s at step {n}' for n, s in seconds.items())
            lines.append(f'compiled for {name}: {steps}')
    return '\n'.join(lines)


def of_breakdown(breakdown: Mapping[str, Any]) -> str:
    """Formats milliseconds by part, a column for each kind of step."""
    columns = {
        f'{name}, {kind}': seconds
        for name, kinds in breakdown.items()
        for kind, seconds in kinds.items()
    }
    rows = [
        [title, *(f'{1e3 * columns[title][p]:.2f}' for p in PARTS)] for title in columns
    ]
    return text_tables.aligned(['ms', *PARTS], rows)


def of_memory(memory: Mapping[str, Mapping[str, float]]) -> str:
    """Formats peak memory by method."""
    rows = [[name, *map(str, values.values())] for name, values in memory.items()]
    columns = [key.removesuffix('_mib') for key in next(iter(memory.values()))]
    return text_tables.aligned(['MiB', *columns], rows)


def of_exponents(exponents: Mapping[str, Mapping[str, float | None]]) -> str:
    """Formats fitted exponents, a row for each quantity.

    Args:
      exponents: What is swept to quantity to exponent.
    """
    quantities = list(next(iter(exponents.values())))
    rows = [
        [q, *(_number(of_quantity[q]) for of_quantity in exponents.values())]
        for q in quantities
    ]
    return text_tables.aligned(['exponent in', *exponents], rows)


def _with_quartiles(values: Mapping[str, Any], key: str, digits: str) -> str:
    low, high = values[f'{key}_quartiles']
    return f'{values[key]:{digits}} ({low:{digits}} to {high:{digits}})'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'

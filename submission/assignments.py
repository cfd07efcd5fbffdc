"""The table of who trains which parameter, the same in both frameworks."""

import dataclasses
from collections.abc import Sequence

from absl import logging


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Who trains a parameter, and why."""

    parameter_name: str
    shape: tuple[int, ...]
    is_kfac: bool
    reason: str


def format_assignments(assignments: Sequence[Assignment]) -> str:
    """Formats who trains which parameter as a table."""
    header = ('parameter', 'shape', 'trained by', 'why')
    rows = [
        (
            a.parameter_name,
            'x'.join(str(size) for size in a.shape) or 'scalar',
            'K-FAC' if a.is_kfac else 'NAdamW',
            a.reason,
        )
        for a in assignments
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    return '\n'.join(
        '  '.join(
            [*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]
        )
        for row in [header, *rows]
    )


def log_assignments(assignments: Sequence[Assignment]) -> None:
    """Logs the table."""
    n_kfac = sum(assignment.is_kfac for assignment in assignments)
    logging.info(
        'K-FAC trains %d of %d parameters:\n%s',
        n_kfac,
        len(assignments),
        format_assignments(assignments),
    )

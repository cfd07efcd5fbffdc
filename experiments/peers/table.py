"""The measurements as a Markdown table."""

from collections.abc import Mapping
from typing import Any

from experiments import text_tables
from experiments.peers.timing import EVERY, EXTRA

_COLUMNS = {
    'statistics': 'statistics step, ms',
    EXTRA: 'update, ms',
    'plain': 'plain step, ms',
    EVERY: f'{EVERY}, ms',
}


def of_peer(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats what was measured by turns, a method in a row.

    Args:
      methods: What `session.measure` returned as `methods`.
    """
    header = [
        'method',
        *_COLUMNS.values(),
        f'{EVERY} / NAdamW',
        'state, KiB',
        'loss',
        '',
    ]
    rows = [_row(name, found, len(header)) for name, found in methods.items()]
    return text_tables.markdown(header, rows)


def _row(name: str, found: Mapping[str, Any], width: int) -> list[str]:
    if 'failure' in found:
        empty = ['-'] * (width - 2)
        return [name, *empty, f'does not run: {found["failure"]}']
    summary, losses = found['summary'], found['losses']
    remarks = [_training(summary, losses), found['note'], _factors(summary)]
    times = [_cell(summary, column, 'milliseconds', '.1f') for column in _COLUMNS]
    return [
        name,
        *times,
        _cell(summary, EVERY, 'ratio', '.2f'),
        f'{found["state_bytes"] / 1024:.0f}',
        # Nothing to say of what only computes factors.
        '-' if EVERY not in summary else f'{losses[0]:.3f} to {losses[1]:.3f}',
        '; '.join(filter(None, remarks)),
    ]


def _cell(summary: Mapping[str, Any], column: str, value: str, digits: str) -> str:
    if column not in summary:
        return '-'
    low, high = summary[column][f'{value}_quartiles']
    return f'{summary[column][value]:{digits}} ({low:{digits}} to {high:{digits}})'


def _factors(summary: Mapping[str, Any]) -> str:
    # Only a method without steps computes factors and leaves the inverses.
    if 'factors' not in summary:
        return ''
    return f'without inverses {_cell(summary, "factors", "milliseconds", ".1f")}'


def _training(summary: Mapping[str, Any], losses: list[float]) -> str:
    # Written so that a loss that is not a number does not pass.
    is_training = losses[1] < losses[0] or EVERY not in summary
    return '' if is_training else 'DOES NOT TRAIN'

"""Seconds a step by statistics interval, each variant in turn with NAdamW.

A round gives every K-FAC variant an interval of 10 (one statistics step, nine plain
ones), some steps in a row with new factors and the inverses of before, and some
statistics steps in a row, which is what an interval of 1 trains, with steps of NAdamW
before and after. Intervals 1 and 10 are measured that way; what follows from the kinds
of step of the same round are an interval of 50, and new factors in every step with new
inverses in every tenth. The first step after another run's does not count: it finds the
caches full of the other's arrays.

Ratios are taken round by round against NAdamW's steps next to the variant's, which
cancels the drift of a shared machine. Between steps of one kind in a row nothing waits
for the device, as in training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import trange

from experiments.spread import with_quartiles
from experiments.step_time.runs import Run
from experiments.step_time.variants import INTERVAL, NADAMW

DERIVED_INTERVAL = 50
# How often factors and inverses are renewed, besides both together.
SELDOM_INVERSES = f'every 1, inverses every {INTERVAL}'
_STATISTICS_STEPS = 3
_NADAMW_STEPS = INTERVAL - 1

Rounds = dict[str, dict[str, list[float]]]


def measure(runs: Mapping[str, Run], rounds: int) -> Rounds:
    """Times the variants.

    Args:
      runs: Runs by name, that of NAdamW among them.
      rounds: Number of rounds.

    Returns:
      K-FAC variant to the mean seconds in each round of: `nadamw` (its steps before
      and after), `plain`, `factors`, `statistics`, `every 1` and `every 10`.
    """
    for run in runs.values():
        run.warm_up()
    nadamw = runs[NADAMW]
    variants = {name: run for name, run in runs.items() if name != NADAMW}
    seconds: Rounds = {name: {} for name in variants}
    for _ in trange(rounds, unit='round'):
        before = _nadamw_steps(nadamw)
        for name, run in variants.items():
            run.take('plain')
            statistics = run.take('statistics')
            plain = run.take('plain', INTERVAL - 1)
            factors = run.take('factors', _STATISTICS_STEPS)
            in_a_row = run.take('statistics', _STATISTICS_STEPS)
            after = _nadamw_steps(nadamw)
            now = {
                NADAMW: (before + after) / 2,
                'plain': plain,
                'factors': factors,
                'statistics': statistics,
                'every 1': in_a_row,
                f'every {INTERVAL}': plain + (statistics - plain) / INTERVAL,
            }
            for column, value in now.items():
                seconds[name].setdefault(column, []).append(round(value, 6))
            before = after
    return seconds


def _nadamw_steps(run: Run) -> float:
    run.take('plain')
    return run.take('plain', _NADAMW_STEPS)


def summarise(seconds: Rounds) -> dict[str, Any]:
    """Returns milliseconds and ratios to NAdamW, median and quartiles over rounds.

    Args:
      seconds: What `measure` returned.

    Returns:
      Variant to kind of step or interval to `milliseconds`, `milliseconds_quartiles`,
      `ratio`, `ratio_quartiles` and `derived` (whether from other times).
    """
    everything = [v for columns in seconds.values() for v in columns[NADAMW]]
    summary = {NADAMW: {'plain': _spread(everything, [1.0], derived=False)}}
    for name, columns in seconds.items():
        reference = np.array(columns[NADAMW])
        summary[name] = {
            column: _spread(values, np.array(values) / reference, derived=False)
            for column, values in columns.items()
            if column != NADAMW
        }
        plain, statistics, factors, all_new = (
            np.array(columns[c]) for c in ('plain', 'statistics', 'factors', 'every 1')
        )
        derived = {
            SELDOM_INVERSES: factors + (all_new - factors) / INTERVAL,
            f'every {DERIVED_INTERVAL}': plain
            + (statistics - plain) / DERIVED_INTERVAL,
        }
        for column, values in derived.items():
            summary[name][column] = _spread(values, values / reference, derived=True)
    return summary


def _spread(
    seconds: Sequence[float] | np.ndarray,
    ratios: Sequence[float] | np.ndarray,
    derived: bool,
) -> dict[str, Any]:
    return {
        **with_quartiles('milliseconds', 1e3 * np.asarray(seconds), 2),
        **with_quartiles('ratio', ratios, 3),
        'derived': derived,
    }

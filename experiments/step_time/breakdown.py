"""Where the time of a step goes.

How the parts are told apart differs by framework: see `pytorch_parts` and `jax_parts`.
"""

import importlib
import statistics
from collections.abc import Mapping
from typing import Any

from experiments.step_time.runs import Run, StepKind

PARTS = (
    'forward and backward',
    'extra backward',
    'factors',
    'inverses',
    'preconditioning',
    'first-order rule',
    'rest',
)

Breakdown = dict[str, dict[str, dict[str, float]]]


def parts(framework_name: str, runs: Mapping[str, Run], rounds: int) -> Breakdown:
    """Times the parts that work is done in.

    Args:
      framework_name: `'pytorch'` or `'jax'`.
      runs: Runs by name, that of NAdamW among them; in PyTorch warmed up.
      rounds: How often each part is timed.

    Returns:
      Run to kind of step to part to median seconds; the rest is among them where it
      was seen beside the parts.
    """
    module: Any = importlib.import_module(
        f'experiments.step_time.{framework_name}_parts'
    )
    measured: Breakdown = module.measure(runs, rounds)
    return measured


def measure(framework_name: str, runs: Mapping[str, Run], rounds: int) -> Breakdown:
    """Times all parts, the rest of each step included; arguments as for `parts`."""
    for run in runs.values():
        run.warm_up()
    measured = parts(framework_name, runs, rounds)
    for name, run in runs.items():
        for kind, seconds in measured[name].items():
            if 'rest' not in seconds:
                seconds['rest'] = _step_seconds(run, kind, rounds) - sum(
                    seconds.values()
                )
    return {
        name: {
            kind: {part: round(seconds.get(part, 0.0), 6) for part in PARTS}
            for kind, seconds in kinds.items()
        }
        for name, kinds in measured.items()
    }


def _step_seconds(run: Run, kind: str, rounds: int) -> float:
    step_kind: StepKind = 'statistics' if kind == 'statistics' else 'plain'
    return statistics.median(run.take(step_kind) for _ in range(rounds))

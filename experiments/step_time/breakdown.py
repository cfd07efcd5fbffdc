"""Where the time of a step goes.

How the parts are told apart differs by framework: see `pytorch_parts` and `jax_parts`.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from experiments.step_time.runs import Run

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


def parts(
    framework_name: str, runs: Mapping[str, Run], rounds: int, with_rest: bool
) -> Breakdown:
    """Times the parts of steps.

    Args:
      framework_name: `'pytorch'` or `'jax'`.
      runs: Runs by name, that of NAdamW among them; in PyTorch warmed up.
      rounds: How often each part is timed.
      with_rest: Whether the rest is wanted, for which JAX compiles whole steps.

    Returns:
      Run to kind of step to part to median seconds.
    """
    module: Any = importlib.import_module(
        f'experiments.step_time.{framework_name}_parts'
    )
    measured: Breakdown = module.measure(runs, rounds, with_rest)
    return measured


def measure(framework_name: str, runs: Mapping[str, Run], rounds: int) -> Breakdown:
    """Times all parts, also those that a step lacks; arguments as for `parts`."""
    for run in runs.values():
        run.warm_up()
    measured = parts(framework_name, runs, rounds, with_rest=True)
    return {
        name: {
            kind: {part: round(seconds.get(part, 0.0), 6) for part in PARTS}
            for kind, seconds in kinds.items()
        }
        for name, kinds in measured.items()
    }

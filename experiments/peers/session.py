"""One peer's measurement: it, NAdamW and K-FAC by turns."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.peers import timing
from experiments.peers.failures import Failures
from experiments.peers.method import Method
from experiments.peers.task import Task

# Trained before anything is timed, for the check that a method trains.
TRAINING_INTERVALS = 3


def measure(
    task: Task, makers: Mapping[str, Callable[[Task], Method]], rounds: int
) -> dict[str, Any]:
    """Trains all methods for a while, then times them in turn.

    Args:
      task: What they train.
      makers: Name of a method to what starts it.
      rounds: Rounds of an interval each.

    Returns:
      `methods`, by name: why one does not run as `failure`, or its `summary`,
      `losses` before and after the first intervals, `state_bytes`,
      `compilation_seconds` and `note`; and all `seconds`.
    """
    failures = Failures()
    methods: dict[str, Method] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, make in makers.items():
        with failures.catching(name):
            method = make(task)
            losses = method.train(TRAINING_INTERVALS)
            found[name] = {
                'losses': [round(loss, 5) for loss in losses],
                'steps_between_losses': method.steps,
                'state_bytes': method.state_bytes(),
                'compilation_seconds': round(method.compilation, 3),
                'note': method.note,
            }
            methods[name] = method
    seconds = timing.in_turn(methods, rounds, failures)
    summary = timing.summarise(seconds)
    return {
        'methods': {
            name: {'failure': failures[name]}
            if name in failures
            else {**found[name], 'summary': summary[name]}
            for name in makers
        },
        'seconds': seconds,
    }

"""Times methods in turn, so that the noise of a shared machine hits all of them.

Each takes the steps of an interval, of which the first, a plain one, does not count: it
finds the caches full of another method's arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import trange

from experiments.peers.failures import Failures
from experiments.peers.method import INTERVAL, Method
from experiments.spread import with_quartiles
from experiments.step_time.variants import NADAMW

EVERY = f'every {INTERVAL}'
# What a statistics step takes more than a plain one; or, of a method without steps,
# all that it does.
EXTRA = 'update'

# Method to kind of step (or mean over an interval) to seconds by round.
Rounds = dict[str, dict[str, list[float]]]


def in_turn(methods: Mapping[str, Method], rounds: int, failures: Failures) -> Rounds:
    """Times an interval of each method in each round.

    Args:
      methods: Methods by name, trained for a while so that all has been compiled and
        allocated.
      rounds: Number of rounds.
      failures: Is told of methods that fail, which take no more turns.

    Returns:
      Mean seconds in each round of each kind of step, of an interval's steps, and of
      what a statistics step takes more than a plain one.
    """
    seconds: Rounds = {name: {} for name in methods}
    for _ in trange(rounds, unit='round'):
        for name, method in methods.items():
            if name in failures:
                continue
            with failures.catching(name):
                for kind, value in _interval(method).items():
                    seconds[name].setdefault(kind, []).append(round(value, 6))
    return seconds


def _interval(method: Method) -> dict[str, float]:
    while method.next_kind in ('statistics', 'update'):
        method.take()
    kinds = [method.next_kind]
    method.take()
    by_kind: dict[str, list[float]] = {}
    for _ in method.interval[1:]:
        kind, value = method.take()
        kinds.append(kind)
        by_kind.setdefault(kind, []).append(value)
    means = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    if 'plain' in means:
        means[EVERY] = float(np.mean([means[kind] for kind in kinds]))
        if 'statistics' in means:
            means[EXTRA] = means['statistics'] - means['plain']
    return means


def summarise(seconds: Rounds) -> dict[str, dict[str, Any]]:
    """Returns median and quartiles over rounds, of milliseconds and of ratios.

    Args:
      seconds: What `in_turn` returned.

    Returns:
      Method to kind to `milliseconds`, `milliseconds_quartiles`, `ratio` (to a step
      of NAdamW in the same round) and `ratio_quartiles`.
    """
    reference = np.array(seconds.get(NADAMW, {}).get(EVERY, []))
    return {
        name: {
            kind: with_quartiles('milliseconds', 1e3 * np.array(values), 2)
            | with_quartiles('ratio', np.array(values) / reference[: len(values)], 3)
            for kind, values in kinds.items()
            if len(values) <= len(reference)
        }
        for name, kinds in seconds.items()
    }

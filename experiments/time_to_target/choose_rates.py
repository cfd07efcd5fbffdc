r"""Chooses from measured trials at which points each method is tried on wide models.

Example::

    python -m experiments.time_to_target.choose_rates

The search spaces of the methods were made for narrow models, whose learning rates are
too high for wider ones. On a wider variant of a workload every method is tried at five
learning rates instead: one point, the rate (for Muon both rates) times 1, 1/2, 1/4, 1/8
and 1/16. The point is that of its five with the lowest geometric mean over seeds of the
steps to the target on the narrow model; a trial that did not get there, or was ended
since another of its study had, counts with the step hint.

Writes `search_spaces/rates/<narrow workload>/<method>.json` beside this file. It trains
nothing: records come from `python -m experiments.time_to_target`.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import command
from experiments.time_to_target.candidates import (
    Candidates,
    load_candidates,
    mean_log_steps,
)
from experiments.time_to_target.methods import METHODS, RATES, RESULTS, at_rate

# In the order in which they are tried; a study's later trials end with its best so far.
SHARES = (1 / 4, 1 / 8, 1 / 2, 1 / 16, 1.0)


def best_point(candidates: Candidates) -> Mapping[str, Any]:
    """Returns the candidate with the lowest geometric mean of steps to the targets."""
    number = min(
        range(len(candidates.points)),
        key=lambda n: mean_log_steps([n], candidates.worst, candidates.step_hints),
    )
    return candidates.points[number]


def at_rates(point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a point at the learning rates that are tried on wide models."""
    return [at_rate(point, share) for share in SHARES]


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_list(
        'workloads', ['ogbg_chembl', 'imagenet_vit_fashion_mnist'], 'Narrow workloads.'
    )
    flags.DEFINE_string('results_dir', str(RESULTS), 'Folder of the records.')
    flags.DEFINE_string('output_dir', str(RATES), 'Where to write the points.')


def main() -> None:
    """Chooses each method's point and writes it at its rates."""
    given = flags.FLAGS
    results, output = pathlib.Path(given.results_dir), pathlib.Path(given.output_dir)
    for workload, (name, method) in itertools.product(given.workloads, METHODS.items()):
        candidates = load_candidates(
            [workload], 'pytorch', results, {name: method.points}
        )
        point = best_point(candidates)
        path = output / workload / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(at_rates(point), indent=1) + '\n')
        print(f'{path}: point {candidates.points.index(point) + 1} of {name}')


if __name__ == '__main__':
    define_flags()
    command.run(main)

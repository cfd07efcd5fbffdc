"""The methods, and the points at which each is tried on every workload."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from workloads_overrides import registry

SEARCH_SPACES = pathlib.Path(__file__).parent / 'search_spaces'
WIDER_SEARCH_SPACES = SEARCH_SPACES / 'wider'
# For wide models, written by `choose_rates`.
RATES = SEARCH_SPACES / 'rates'
SUBMISSION = pathlib.Path(__file__).parents[2] / 'tuning_search_space.json'
# A folder for each workload and framework.
RESULTS = pathlib.Path(__file__).parents[1] / 'results' / 'time_to_target'
TRIALS = 5
# All the learning rates that a point can have.
_LEARNING_RATES = ('learning_rate', 'adamw_learning_rate')


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
      label: Name in tables and plots.
      submission: Submission that trains it, a key of `trials.SUBMISSION_PATHS`.
      search_space: Name of the file of its points, without `.json`, in the folder of
        all search spaces, or its path.
      changes: Hyperparameters that differ from those of the search space.
      wider: Whether the points of the wider search come after the five.
    """

    label: str
    submission: str
    search_space: str | pathlib.Path
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    wider: bool = False

    @functools.cached_property
    def points(self) -> Sequence[Mapping[str, Any]]:
        """The hyperparameters to try.

        Raises:
          ValueError: If the search space does not have as many points as all.
        """
        path = (SEARCH_SPACES / self.search_space).with_suffix('.json')
        points = json.loads(path.read_text())
        if len(points) != TRIALS:
            raise ValueError(
                f'{path} has {len(points)} points; every method has {TRIALS}.'
            )
        changed = [{**point, **self.changes} for point in points]
        # Points that differed in what is changed alone have become one.
        points = [p for n, p in enumerate(changed) if p not in changed[:n]]
        if self.wider:
            points += json.loads((WIDER_SEARCH_SPACES / path.name).read_text())
        return points


METHODS = {
    'nadamw': Method('NAdamW', 'kfac', 'nadamw'),
    'nesterov': Method('Nesterov', 'rivals', 'nesterov'),
    'kfac_expand': Method('K-FAC-expand', 'kfac', 'kfac_expand'),
    'kfac_reduce': Method('K-FAC-reduce', 'kfac', 'kfac_reduce'),
    'soap': Method('SOAP', 'rivals', 'soap'),
    'shampoo': Method('Shampoo', 'rivals', 'shampoo'),
    'muon': Method('Muon', 'rivals', 'muon'),
    'schedule_free_adamw': Method(
        'Schedule-Free AdamW', 'rivals', 'schedule_free_adamw'
    ),
}
_IN_EVERY_STEP = {'statistics_interval': 1, 'inverse_interval': 1}
# The paper's Figure 5.
EVERY_STEP = {
    'kfac_expand_every_step': Method(
        'K-FAC-expand, every step', 'kfac', 'kfac_expand', _IN_EVERY_STEP
    ),
    'kfac_reduce_every_step': Method(
        'K-FAC-reduce, every step', 'kfac', 'kfac_reduce', _IN_EVERY_STEP
    ),
}
# Whether expand needs all positions.
FEWER_POSITIONS = {
    'kfac_expand_one_position_in_4': Method(
        'K-FAC-expand, one position in 4',
        'kfac',
        'kfac_expand',
        {'statistics_stride': 4},
    )
}
# Steepest descent under the spectral norm in place of NAdamW on the preconditioned
# gradient.
SPECTRAL = {
    f'{name}_spectral': Method(
        f'{METHODS[name].label}, spectral',
        'kfac',
        'kfac_spectral',
        {'approximation': name.removeprefix('kfac_')},
    )
    for name in ('kfac_expand', 'kfac_reduce')
}
# Without a schedule whose length has been tuned: the whole step hint for all, and what
# is evaluated is an average of the parameters.
AVERAGED = {
    f'{name}_averaged': dataclasses.replace(
        method,
        label=f'{method.label}, averaged',
        changes={**method.changes, 'step_hint_factor': 1.0, 'averaging_power': 16.0},
    )
    for name, method in METHODS.items()
    if method.submission == 'kfac'
}
# The same of the spectral rule, whose points with averages are others.
SPECTRAL_AVERAGED = {
    f'{name}_averaged': dataclasses.replace(
        method,
        label=f'{method.label}, averaged',
        search_space='kfac_spectral_averaged',
    )
    for name, method in SPECTRAL.items()
}
# The five points that AlgoPerf gets.
SUBMITTED = {'kfac_submission': Method('K-FAC (submission)', 'kfac', SUBMISSION)}
# With more points than the five; NAdamW has been searched before.
WIDER = {
    name: dataclasses.replace(METHODS[name], wider=True)
    for name in (
        'kfac_expand',
        'kfac_reduce',
        'soap',
        'shampoo',
        'muon',
        'schedule_free_adamw',
    )
}


def at_rate(point: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Returns a point at a share of its learning rate (for Muon, of both)."""
    return {
        key: share * value if key in _LEARNING_RATES else value
        for key, value in point.items()
    }


def fastest_point(name: str, workload: str) -> dict[str, Any]:
    """Returns the one of a method's five points that was fastest on a workload.

    Args:
      name: Name of the method.
      workload: Name of a workload that points were chosen on; `choose_rates` wrote
        what was fastest there, at its own rate and lower ones.
    """
    points = json.loads((RATES / workload / f'{name}.json').read_text())
    return dict(max(points, key=lambda point: point['learning_rate']))


def main_methods(workload: str) -> dict[str, Method]:
    """Returns the methods to compare on a workload.

    Args:
      workload: Name of the workload. On variants the submission is one of those
        compared. On a wider one the methods are tried at five learning rates of the
        point each was fastest at on the narrow model (`choose_rates`).

    Raises:
      RunnerError: If the workload is unknown.
    """
    base = registry.base_name(workload)
    if base == workload:
        return METHODS
    if registry.is_held_out(workload):
        return {**METHODS, **SPECTRAL, **SUBMITTED}
    at_rates = {
        name: dataclasses.replace(method, search_space=RATES / base / f'{name}.json')
        for name, method in METHODS.items()
    }
    return {**at_rates, **SUBMITTED}


def all_methods(workload: str) -> dict[str, Method]:
    """Returns the same and variations of these methods."""
    if registry.base_name(workload) != workload:
        return main_methods(workload)
    return {
        **METHODS,
        **EVERY_STEP,
        **FEWER_POSITIONS,
        **SPECTRAL,
        **AVERAGED,
        **SPECTRAL_AVERAGED,
        **SUBMITTED,
    }

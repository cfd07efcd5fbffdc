"""Sweeps: one hyperparameter moves by factors, all others stay."""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments import compare
from experiments.compare import LABELS
from experiments.variations.points import Point, base_points
from experiments.variations.results import Results
from submission.settings import Settings

FACTORS = {
    '1/10': 0.1,
    '1/4': 0.25,
    '1/2': 0.5,
    '1': 1.0,
    '2': 2.0,
    '4': 4.0,
    '10': 10.0,
}
# Name of a sweep to the hyperparameters that it moves together.
SWEPT = {
    'learning_rate': ('learning_rate',),
    'damping': ('damping',),
    'interval': ('statistics_interval', 'inverse_interval'),
}
# What NAdamW has too.
_OF_NADAMW = ('learning_rate',)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A hyperparameter of one method.

    Attributes:
      name: What moves, a key of `SWEPT`.
      method: Name of the method.
      base: The point from which it moves.
      points: Name of a factor to the point there.
    """

    name: str
    method: str
    base: Mapping[str, Any]
    points: Mapping[str, Point]

    @property
    def base_value(self) -> float:
        """The value at the base point."""
        return _value(self.base, SWEPT[self.name][0])

    def factor_of(self, point: Point) -> float:
        """Returns value over base value, which rounding may have moved."""
        return _value(point.hyperparameters, SWEPT[self.name][0]) / self.base_value


def make_sweeps(workload: str, approximations: Sequence[str]) -> list[Sweep]:
    """Returns all sweeps, those of a hyperparameter beside each other.

    Args:
      workload: Name of the workload, whose NAdamW reference is compared with.
      approximations: Approximations to sweep.
    """
    bases = {
        f'kfac_{approximation}': point
        for approximation, point in base_points(approximations).items()
    }
    nadamw = {'nadamw': compare.hyperparameters_of('nadamw', workload)}
    return [
        Sweep(
            name,
            method,
            base,
            {
                label: Point(
                    f'{LABELS[method]}, {name} × {label}', _scaled(base, keys, factor)
                )
                for label, factor in FACTORS.items()
            },
        )
        for name, keys in SWEPT.items()
        for method, base in {**(nadamw if name in _OF_NADAMW else {}), **bases}.items()
    ]


def _value(point: Mapping[str, Any], key: str) -> float:
    value: float = getattr(Settings.from_hyperparameters(point), key)
    return value


def _scaled(
    base: Mapping[str, Any], keys: Sequence[str], factor: float
) -> dict[str, Any]:
    types = typing.get_type_hints(Settings)
    changes: dict[str, float] = {}
    for key in keys:
        value = factor * _value(base, key)
        if types[key] is int:
            # Half a step more counts as a step.
            changes[key] = max(1, math.floor(value + 0.5))
        else:
            # 0.01 rather than 0.010000000000000002.
            changes[key] = float(f'{value:.12g}')
    return {**base, **changes}


def curve(sweep: Sweep, results: Results) -> Iterator[tuple[float, float]]:
    """Yields factor and median steps, infinity where the target is missed.

    Points that have not been trained with all seeds are left out.
    """
    for point in sweep.points.values():
        steps = results.median_steps(point)
        if steps is not None:
            yield sweep.factor_of(point), steps

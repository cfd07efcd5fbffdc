"""Base points, and points that differ from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from experiments.time_to_target.methods import METHODS as COMPARED
from experiments.trials import Trial
from submission.settings import Approximation

METHODS = {'none': 'nadamw', 'expand': 'kfac_expand', 'reduce': 'kfac_reduce'}
APPROXIMATIONS = tuple(name for name in get_args(Approximation) if name != 'none')


@dataclasses.dataclass(frozen=True)
class Point:
    """Hyperparameters to train with.

    Attributes:
      name: What differs from the base point, for the progress bar.
      hyperparameters: The hyperparameters.
    """

    name: str
    hyperparameters: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Name of what trains at this point, as in the other comparisons."""
        if 'optimizer' in self.hyperparameters:
            return str(self.hyperparameters['optimizer'])
        return METHODS[self.hyperparameters['approximation']]

    def trial(self, workload: str, framework: str, seed: int) -> Trial:
        """Returns the trial of this point with a seed."""
        return Trial(
            self.method,
            workload,
            framework,
            self.hyperparameters,
            seed,
            COMPARED[self.method].submission,
        )


def base_points(approximations: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns approximation to the first point of its search space.

    Args:
      approximations: Names of approximations.

    Raises:
      ValueError: For an approximation that K-FAC does not have.
    """
    for approximation in approximations:
        if approximation not in APPROXIMATIONS:
            raise ValueError(
                f'No approximation {approximation!r}; --approximations takes '
                f'{" and ".join(APPROXIMATIONS)}, separated by a comma.'
            )
    return {
        approximation: dict(COMPARED[METHODS[approximation]].points[0])
        for approximation in approximations
    }


def choose_names(names: Sequence[str], available: Sequence[str]) -> list[str]:
    """Returns the names that `--only` asks for; all if it asks for none.

    Raises:
      ValueError: For a name that there is not.
    """
    for name in names:
        if name not in available:
            raise ValueError(
                f'--only: there is no {name!r}; there are {", ".join(available)}.'
            )
    return [name for name in available if not names or name in names]

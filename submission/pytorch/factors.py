"""A Kronecker factor over time: its moving average and its inverse."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .inverses import inverse_from_root


@dataclasses.dataclass
class KroneckerFactor:
    """What K-FAC keeps for one side of a layer.

    Attributes:
      moving_average: Exponential moving average of the factor, `[groups, d, d]`,
        not bias-corrected; None before the first statistic.
      averaged_weight: Sum of the weights in the average, 1 - decay**updates.
      inverse: Damped inverse in units of the factor's mean eigenvalue,
        `[groups, d, d]`; None until there is one, and where a root is kept.
      inverted_scale: Mean eigenvalue of the factor that was inverted.
      inverse_root: Lower triangular R with R.T R the inverse, `[groups, d, d]`, kept in
        its place where that is what the first-order rule uses.
    """

    moving_average: Tensor | None = None
    averaged_weight: float = 0.0
    inverse: Tensor | None = None
    inverted_scale: Tensor | None = None
    inverse_root: Tensor | None = None

    @property
    def average(self) -> Tensor:
        """The moving average, where there is one."""
        assert self.moving_average is not None
        return self.moving_average

    def renew(self, matrix: Tensor, scale: Tensor, is_root: bool) -> None:
        """Takes over a new inverse, or the root of one."""
        self.inverted_scale = scale
        self.inverse, self.inverse_root = (None, matrix) if is_root else (matrix, None)

    def keep_one(self, is_root: bool) -> None:
        """Keeps no more than the inverse, or its root, whatever another rule kept."""
        if self.inverse_root is None:
            return
        if is_root:
            self.inverse = None
        else:
            self.inverse, self.inverse_root = self.current_inverse(), None

    def current_inverse(self) -> Tensor | None:
        """Returns the inverse, from its root where that is kept; None without one."""
        if self.inverse_root is None:
            return self.inverse
        return inverse_from_root(self.inverse_root)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values by attribute."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], device: torch.device
    ) -> 'KroneckerFactor':
        """Restores a factor on a device, bit for bit."""
        values: dict[str, Any] = {
            key: value.to(device, copy=True) if torch.is_tensor(value) else value
            for key, value in state_dict.items()
        }
        return cls(**values)


def update_averages(
    factors: Sequence[KroneckerFactor], statistics: Sequence[Tensor], decay: float
) -> None:
    """Moves the averages towards new statistics, all together.

    Args:
      factors: The factors.
      statistics: One of shape `[groups, d, d]` for each.
      decay: How much stays of an average.
    """
    if not factors:
        return
    for factor, statistic in zip(factors, statistics, strict=True):
        if factor.moving_average is None:
            factor.moving_average = torch.zeros_like(statistic)
        factor.averaged_weight += (1.0 - decay) * (1.0 - factor.averaged_weight)
    averages = [factor.average for factor in factors]
    torch._foreach_lerp_(averages, list(statistics), 1.0 - decay)


def bias_corrected(factors: Sequence[KroneckerFactor]) -> list[Tensor]:
    """Returns the averages as if they had not begun at zero."""
    if not factors:
        return []
    averages = [factor.average for factor in factors]
    weights = [factor.averaged_weight for factor in factors]
    return list(torch._foreach_div(averages, weights))

"""A Kronecker factor over time: its moving average and its inverse."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass
class KroneckerFactor:
    """What K-FAC keeps for one side of a layer.

    Attributes:
      moving_average: Exponential moving average of the factor, `[groups, d, d]`,
        not bias-corrected; None before the first statistic.
      averaged_weight: Sum of the weights in the average, 1 - decay**updates.
      inverse: Damped inverse in units of the factor's mean eigenvalue,
        `[groups, d, d]`; None until there is one.
      inverted_scale: Mean eigenvalue of the factor that `inverse` was computed from.
    """

    moving_average: Tensor | None = None
    averaged_weight: float = 0.0
    inverse: Tensor | None = None
    inverted_scale: Tensor | None = None

    @property
    def average(self) -> Tensor:
        """The moving average, where there is one."""
        assert self.moving_average is not None
        return self.moving_average

    def update(self, statistic: Tensor, decay: float) -> None:
        """Moves the average towards a new statistic of shape `[groups, d, d]`."""
        if self.moving_average is None:
            self.moving_average = torch.zeros_like(statistic)
        self.moving_average.lerp_(statistic, 1.0 - decay)
        self.averaged_weight += (1.0 - decay) * (1.0 - self.averaged_weight)

    def bias_corrected(self) -> Tensor:
        """Returns the average as if it had not begun at zero."""
        return self.average / self.averaged_weight

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

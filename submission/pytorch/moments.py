"""Moving averages of gradients, and NAdamW's update from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-8


class Moments:
    """Nesterov momentum and, where asked for, second moments of gradients.

    With second moments this is NAdamW as in Table 1 of Choi et al. (2019), the rule
    of AlgoPerf's baseline; without, Nesterov momentum with bias correction.

    Whether a step counts is known to the device alone, and so is the number of
    steps: asking would make the host wait for the device in every step.
    """

    def __init__(
        self, names: Sequence[str], device: torch.device, *, second: bool
    ) -> None:
        """Prepares empty moments.

        Args:
          names: Names of the parameters covered.
          device: Device of the parameters.
          second: Whether updates are divided by root second moments.
        """
        self.names = list(names)
        self._second = second
        self._first: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        # Not an integer, whose power would be of single precision.
        self._steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def updates(
        self,
        gradients: Mapping[str, Tensor],
        beta1: float,
        beta2: float,
        counts: Tensor,
    ) -> dict[str, Tensor]:
        """Takes in one step's gradients and returns the update directions.

        Args:
          gradients: Gradients by parameter name; those of parameters that are not
            covered are ignored, and covered ones without a gradient stand still.
          beta1: Decay of the first moment.
          beta2: Decay of the second moment.
          counts: Whether this is a step, a scalar of booleans. If not, moments stay
            as they are and the directions are zero, whatever the gradients.
        """
        self._steps += counts
        names = [name for name in self.names if name in gradients]
        if not names:
            return {}
        for name in names:
            if name not in self._first:
                self._first[name] = torch.zeros_like(gradients[name])
                if self._second:
                    self._squares[name] = torch.zeros_like(gradients[name])
        first = [self._first[name] for name in names]
        dtype = first[0].dtype
        # A moment does not move towards itself, to the last bit.
        now = [
            torch.where(counts, gradients[name], moment)
            for name, moment in zip(names, first, strict=True)
        ]
        torch._foreach_lerp_(first, now, 1.0 - beta1)
        # Nesterov: the moment as the next step will see it.
        directions = torch._foreach_lerp(first, now, 1.0 - beta1)
        # Dividing by infinity is the cheapest way to a direction of zero.
        correction = torch.where(counts, 1.0 - beta1**self._steps, math.inf)
        torch._foreach_div_(directions, correction.to(dtype))
        if self._second:
            squares = [self._squares[name] for name in names]
            decay = torch.where(counts, torch.full_like(self._steps, beta2), 1.0)
            torch._foreach_mul_(squares, decay.to(dtype))
            torch._foreach_mul_(now, counts.to(dtype))
            torch._foreach_addcmul_(squares, now, now, 1.0 - beta2)
            roots = torch._foreach_sqrt(squares)
            correction = torch.where(counts, 1.0 - beta2**self._steps, 1.0).sqrt()
            torch._foreach_div_(roots, correction.to(dtype))
            torch._foreach_add_(roots, _EPSILON)
            torch._foreach_div_(directions, roots)
        return dict(zip(names, directions, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments by parameter name, and the number of steps."""
        return {
            'first': dict(self._first),
            'squares': dict(self._squares),
            'steps': self._steps,
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], devices: Mapping[str, torch.device]
    ) -> None:
        """Restores the moments on the given devices."""
        for key in ('first', 'squares'):
            moments = {
                name: value.to(devices[name], copy=True)
                for name, value in state_dict[key].items()
            }
            setattr(self, f'_{key}', moments)
        self._steps.fill_(state_dict['steps'])

"""Moving averages of gradients, and NAdamW's update from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8


class Moments:
    """Nesterov momentum and, where asked for, second moments of gradients.

    With second moments this is NAdamW as in Table 1 of Choi et al. (2019), the rule
    of AlgoPerf's baseline; without, Nesterov momentum with bias correction.
    """

    def __init__(self, names: Sequence[str], *, second: bool) -> None:
        """Prepares empty moments.

        Args:
          names: Names of the parameters covered.
          second: Whether updates are divided by root second moments.
        """
        self.names = list(names)
        self._second = second
        self._first: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._steps = 0

    @torch.no_grad()
    def updates(
        self, gradients: Mapping[str, Tensor], beta1: float, beta2: float
    ) -> dict[str, Tensor]:
        """Takes in one step's gradients and returns the update directions.

        Args:
          gradients: Gradients by parameter name; those of parameters that are not
            covered are ignored, and covered ones without a gradient stand still.
          beta1: Decay of the first moment.
          beta2: Decay of the second moment.
        """
        self._steps += 1
        names = [name for name in self.names if name in gradients]
        if not names:
            return {}
        now = [gradients[name] for name in names]
        for name, gradient in zip(names, now, strict=True):
            if name not in self._first:
                self._first[name] = torch.zeros_like(gradient)
                if self._second:
                    self._squares[name] = torch.zeros_like(gradient)
        first = [self._first[name] for name in names]
        torch._foreach_lerp_(first, now, 1.0 - beta1)
        # Nesterov: the moment as the next step will see it.
        directions = torch._foreach_lerp(first, now, 1.0 - beta1)
        torch._foreach_div_(directions, 1.0 - beta1**self._steps)
        if self._second:
            squares = [self._squares[name] for name in names]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, now, now, 1.0 - beta2)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_div_(roots, (1.0 - beta2**self._steps) ** 0.5)
            torch._foreach_add_(roots, EPSILON)
            torch._foreach_div_(directions, roots)
        return dict(zip(names, directions, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments by parameter name."""
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
        self._steps = state_dict['steps']

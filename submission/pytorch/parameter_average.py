"""The averaged parameters, which take the place of the trained ones in evaluation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..averaging import newest_share
from .running_statistics import find_running_statistics


class ParameterAverage:
    """A weighted mean of a model's parameters over the steps.

    The running statistics of batch normalisation are averaged along with the
    parameters that they belong to.

    Evaluation and training each have their parameters in the model in turn, the others
    being kept here, so that nothing is held twice.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, power: float) -> None:
        """Begins with the parameters as they are.

        Args:
          model: The model, not wrapped.
          power: How fast the weights of steps grow, see `averaging.newest_share`.
        """
        self._power = power
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._statistics = find_running_statistics(model)
        self._kept = {name: now.clone() for name, now in self._in_model().items()}
        self._is_evaluating = False

    def _in_model(self) -> dict[str, Tensor]:
        """Returns by name what the model holds of what is averaged."""
        # Some modules put a new tensor in place of a statistic.
        statistics = {name: getattr(*place) for name, place in self._statistics.items()}
        return {**self._parameters, **statistics}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after a step of training.

        Args:
          step: Number of steps taken before this one.
        """
        kept = list(self._kept.values())
        now = list(self._in_model().values())
        torch._foreach_lerp_(kept, now, newest_share(step, self._power))

    def train(self) -> None:
        """Puts the trained parameters into the model, unless they are there."""
        if self._is_evaluating:
            self._exchange()

    def evaluate(self) -> None:
        """Puts the averaged parameters into the model, unless they are there."""
        if not self._is_evaluating:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, in_model in self._in_model().items():
            before = in_model.clone()
            in_model.copy_(self._kept[name])
            self._kept[name].copy_(before)
        self._is_evaluating = not self._is_evaluating

    def state_dict(self) -> dict[str, Any]:
        """Returns by name what the model does not hold, and which of both that is."""
        return {'kept': dict(self._kept), 'is_evaluating': self._is_evaluating}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state, bit for bit; the model is restored by itself.

        Raises:
          ValueError: If the checkpoint averages other parameters than the model has.
        """
        kept: Mapping[str, Tensor] = state_dict['kept']
        for name in sorted(set(kept) ^ set(self._kept)):
            raise ValueError(
                f'The checkpoint averages {name!r}, which the model lacks.'
                if name in kept
                else f'The checkpoint has no average of {name!r}, which the model has.'
            )
        for name, value in kept.items():
            self._kept[name].copy_(value)
        self._is_evaluating = bool(state_dict['is_evaluating'])

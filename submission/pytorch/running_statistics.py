"""The running statistics of batch normalisation, which a forward pass updates."""

import torch
from torch import Tensor, nn

_NAMES = ('running_mean', 'running_var')


def find_running_statistics(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Returns where a model has running statistics, by name.

    By module, since some put a new tensor in place of a buffer.

    Args:
      model: The model. Those of its modules count whose buffers are named like those
        of `nn.BatchNorm2d`.
    """
    return {
        f'{path}.{name}'.removeprefix('.'): (module, name)
        for path, module in model.named_modules()
        for name, _ in module.named_buffers(recurse=False)
        if name in _NAMES
    }


class RunningStatistics:
    """The running statistics of a model, which a step that does not count leaves.

    A pass whose values are not finite leaves them not finite for good: no later pass
    brings a moving average back from NaN.
    """

    def __init__(self, model: nn.Module) -> None:
        """Finds the statistics.

        Args:
          model: The model, see `find_running_statistics`.
        """
        self._places = list(find_running_statistics(model).values())
        self._before: list[Tensor] = []

    def remember(self) -> None:
        """Remembers the statistics, before a forward pass."""
        self._before = [getattr(*place).clone() for place in self._places]

    @torch.no_grad()
    def restore_unless(self, counts: Tensor) -> None:
        """Takes the forward pass back, without waiting for the device to know.

        Args:
          counts: Whether the step counts, a scalar of booleans.
        """
        # Nothing is remembered where a step was taken without `remember`.
        for place, before in zip(self._places, self._before, strict=False):
            statistic = getattr(*place)
            statistic.copy_(torch.where(counts, statistic, before))
        self._before = []

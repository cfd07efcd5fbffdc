"""The running statistics of batch normalisation, which a forward pass updates."""

import torch
from torch import Tensor, nn

_NAMES = ('running_mean', 'running_var')


class RunningStatistics:
    """The running statistics of a model as they were before a step.

    A pass whose values are not finite leaves them not finite for good: no later pass
    brings a moving average back from NaN.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remembers the statistics.

        Args:
          model: The model, before its forward pass. Those of its modules count whose
            buffers are named like those of `nn.BatchNorm2d`.
        """
        # By module: some put a new tensor in place of a buffer.
        self._before = [
            (module, name, statistic.clone())
            for module in model.modules()
            for name, statistic in module.named_buffers(recurse=False)
            if name in _NAMES
        ]

    @torch.no_grad()
    def restore_unless(self, counts: Tensor) -> None:
        """Takes the forward pass back, without waiting for the device to know.

        Args:
          counts: Whether the step counts, a scalar of booleans.
        """
        for module, name, before in self._before:
            statistic = getattr(module, name)
            statistic.copy_(torch.where(counts, statistic, before))

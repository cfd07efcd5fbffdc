"""SINGD, K-FAC that keeps inverse factors up to date without inverting.

Its statistics are those of the empirical Fisher. Its documentation excludes graph
networks: it takes each row for an example, so that its reduce would be its expand.
"""

import functools
from collections.abc import Callable

import torch
from singd.optim.optimizer import SINGD

from experiments.peers.method import INTERVAL, Method
from experiments.peers.pytorch_method import PyTorchMethod, tensor_bytes
from experiments.peers.task import Task

# Its default of 1e-3 moves the loss by a hundredth in 30 steps.
_LEARNING_RATE = 1e-1
_MOMENTUM = 0.9


class Singd(PyTorchMethod):
    """SINGD with dense structures for linear layers and convolutions.

    It leaves other parameters to another optimiser.
    """

    note = f'learning rate {_LEARNING_RATE}, its default is 0.001'

    def __init__(self, task: Task, approximation: str) -> None:
        super().__init__(task)
        self.singd = SINGD(
            self.model,
            lr=_LEARNING_RATE,
            momentum=_MOMENTUM,
            T=INTERVAL,
            kfac_approx=approximation,
            warn_unsupported=False,
        )
        taken = {id(p) for group in self.singd.param_groups for p in group['params']}
        rest = [p for p in self.model.parameters() if id(p) not in taken]
        self.optimizers = [
            self.singd,
            torch.optim.SGD(rest, _LEARNING_RATE, momentum=_MOMENTUM),
        ]
        if task.has_graphs:
            self.note += '; its documentation excludes graph networks'

    def state_bytes(self) -> int:
        """Returns the size of inverse factors and momenta."""
        factors = [self.singd.Ks, self.singd.Cs, self.singd.m_Ks, self.singd.m_Cs]
        return super().state_bytes() + tensor_bytes(factors)


def fisher_type(task: Task) -> str:
    """Returns the Fisher type of our K-FAC that does the same."""
    del task
    return 'empirical'


def methods(task: Task) -> dict[str, Callable[[Task], Method]]:
    """Returns what starts each method, by name."""
    return {
        f'singd, {approximation}, empirical': functools.partial(
            Singd, approximation=approximation
        )
        for approximation in task.approximations_by_first_axis
    }

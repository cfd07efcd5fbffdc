"""K-FAC of asdfghjkl, the package of ASDL, set up as in its README.

It flattens positions, which is K-FAC-expand, and samples labels for softmax and
squared error alone; for several binary labels only its empirical Fisher is left.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from asdl.matrices import FISHER_EMP, FISHER_MC
from asdl.precondition import KfacGradientMaker, PreconditioningConfig
from torch import Tensor, nn

from experiments.peers.method import INTERVAL, Method
from experiments.peers.pytorch_method import PyTorchMethod, tensor_bytes
from experiments.peers.task import Task

# With the README's 0.01 the loss of the vision transformer does not fall.
_DAMPING = 0.1
_LEARNING_RATE = 1e-3
_MOMENTUM = 0.9


class _Loss(nn.Module):
    """The training loss, whose reduction asdfghjkl sets to its needs."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.reduction = 'mean'
        self._task = task

    def forward(self, outputs: Tensor, batch: Any) -> Tensor:
        """Returns the sum or the mean over loss terms."""
        summed, terms = self._task.loss(outputs, batch)
        loss: Tensor = summed if self.reduction == 'sum' else summed / terms
        return loss


class Asdfghjkl(PyTorchMethod):
    """SGD on the gradient that its `KfacGradientMaker` preconditions."""

    note = f'damping {_DAMPING}, its README has 0.01'

    def __init__(self, task: Task, fisher_type: str) -> None:
        super().__init__(task)
        self._loss = _Loss(task)
        # Without moving averages, which its step takes only with a CUDA build.
        self._config = PreconditioningConfig(
            data_size=task.batch_size,
            damping=_DAMPING,
            preconditioner_upd_interval=INTERVAL,
            # A head that starts at zero lets no gradient pass, nor statistics.
            preconditioner_warmup_steps=INTERVAL,
        )
        self.maker = KfacGradientMaker(
            self.model,
            self._config,
            fisher_type=FISHER_EMP if fisher_type == 'empirical' else FISHER_MC,
        )
        self.optimizers = [
            torch.optim.SGD(self.model.parameters(), _LEARNING_RATE, momentum=_MOMENTUM)
        ]

    def backward(self, batch: Any) -> None:
        """Lets the gradient maker call model and loss."""
        if self.task.has_many_labels:
            # It divides by this number: the loss terms, not the examples.
            self._config.data_size = int(batch['weights'].sum())
        maker = self.maker
        outputs = maker.setup_model_call(self.model, batch['inputs'], dropout_rate=0.0)
        maker.setup_loss_call(self._loss, outputs, batch)
        maker.forward_and_backward()

    def state_bytes(self) -> int:
        """Returns the size of inverses and momentum."""
        curvature = [
            getattr(module, self.maker.fisher_maker.config.fisher_attr, None)
            for module in self.model.modules()
        ]
        return super().state_bytes() + tensor_bytes(curvature)


def fisher_type(task: Task) -> str:
    """Returns the Fisher type of our K-FAC that does the same."""
    return 'empirical' if task.has_many_labels else 'monte_carlo'


def methods(task: Task) -> dict[str, Callable[[Task], Method]]:
    """Returns what starts each method, by name."""
    kind = fisher_type(task)
    return {
        f'asdfghjkl, expand, {kind}': functools.partial(Asdfghjkl, fisher_type=kind)
    }

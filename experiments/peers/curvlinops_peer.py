"""The Kronecker factors of curvlinops, which has K-FAC but no optimiser.

It takes each row of a graph network's layers for an example, so that its reduce would
be its expand.
"""

import functools
from collections.abc import Callable
from typing import Any

import curvlinops
import torch
from torch import Tensor, nn

from experiments.peers.method import Kind, Method
from experiments.peers.pytorch_method import PyTorchMethod, tensor_bytes
from experiments.peers.task import Task

_DAMPING = 1e-3
_SEED = 0


class _TakesBatches(nn.Module):
    """The model as a function of the mapping that curvlinops passes on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """Returns the model's outputs."""
        outputs: Tensor = self.model(batch['inputs'], dropout_rate=0.0)
        return outputs


class Curvlinops(PyTorchMethod):
    """Computes factors without and with their inverses; trains nothing.

    A new operator for each is what its documentation asks for once parameters change.
    Each runs the model forward and backward, which the K-FAC of an optimiser shares
    with the training step; only beside a whole statistics step is it comparable.
    """

    interval: tuple[Kind, ...] = ('factors', 'factors', 'update')
    note = 'update includes a forward and backward pass of its own; no optimiser'

    def __init__(self, task: Task, approximation: str, fisher_type: str = 'mc') -> None:
        super().__init__(task)
        self._approximation = approximation
        self._fisher_type = fisher_type
        self._function = _TakesBatches(self.model)
        self.parameters = [
            parameter
            for module in self.model.modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
            for parameter in module.parameters()
        ]
        self._vector = [torch.ones_like(parameter) for parameter in self.parameters]
        self.operator: Any = None
        self.inverse: Any = None

    def step(self, batch: Any) -> None:
        """Computes factors, every third time their inverses too."""
        self.operator = self.factors(batch)
        if self.next_kind == 'update':
            self.inverse = curvlinops.KFACInverseLinearOperator(
                self.operator, damping=_DAMPING, use_heuristic_damping=True
            )
            # They are computed when they are first needed.
            self.inverse @ self._vector

    def factors(self, batch: Any) -> Any:
        """Returns the operator, with its factors computed."""
        operator = curvlinops.KFACLinearOperator(
            self._function,
            self._loss(batch),
            self.parameters,
            [(dict(batch), batch['targets'])],
            check_deterministic=False,
            seed=_SEED,
            fisher_type=self._fisher_type,
            kfac_approx=self._approximation,
            num_per_example_loss_terms=1,
            separate_weight_and_bias=False,
            num_data=len(batch['targets']),
            batch_size_fn=lambda inputs: len(inputs['targets']),
        )
        operator.compute_kronecker_factors()
        return operator

    def _loss(self, batch: Any) -> nn.Module:
        if self.task.has_many_labels:
            weight = batch['weights'].to(torch.get_default_dtype())
            return nn.BCEWithLogitsLoss(weight=weight, reduction='sum')
        return nn.CrossEntropyLoss()

    def state_bytes(self) -> int:
        """Returns the size of factors and inverses."""
        return tensor_bytes(
            [
                getattr(operator, f'{prefix}_{side}_covariances')
                for operator, prefix in (
                    (self.operator, ''),
                    (self.inverse, '_inverse'),
                )
                for side in ('input', 'gradient')
            ]
        )


def fisher_type(task: Task) -> str:
    """Returns the Fisher type of our K-FAC that does the same."""
    del task
    return 'monte_carlo'


def methods(task: Task) -> dict[str, Callable[[Task], Method]]:
    """Returns what starts each method, by name."""
    return {
        f'curvlinops, {approximation}, monte_carlo': functools.partial(
            Curvlinops, approximation=approximation
        )
        for approximation in task.approximations_by_first_axis
    }

"""SOAP, Shampoo and Muon of pytorch-optimizer, at its defaults but for intervals."""

from collections.abc import Callable

from pytorch_optimizer import SOAP, Muon, ScalableShampoo
from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting

from experiments.peers.method import (
    INTERVAL,
    PLAIN_ONLY,
    STATISTICS_FIRST,
    STATISTICS_LAST,
    Kind,
    Method,
)
from experiments.peers.pytorch_method import PyTorchMethod
from experiments.peers.task import Task
from experiments.rivals.hidden_weights import hidden_weights_and_rest


class Soap(PyTorchMethod):
    """SOAP; all its steps update statistics, some the eigenbases as well."""

    # Its first step only makes the eigenbases.
    interval: tuple[Kind, ...] = STATISTICS_FIRST
    note = 'statistics in plain steps too'

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.optimizers = [
            SOAP(self.model.parameters(), precondition_frequency=INTERVAL)
        ]


class Shampoo(PyTorchMethod):
    """Shampoo; all its steps update statistics, some the inverse roots as well."""

    interval: tuple[Kind, ...] = STATISTICS_LAST
    note = 'statistics in plain steps too'

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.optimizers = [
            ScalableShampoo(
                self.model.parameters(),
                start_preconditioning_step=INTERVAL,
                preconditioning_compute_steps=INTERVAL,
                graft_type=LayerWiseGrafting.RMSPROP,
            )
        ]


class MuonAndAdamW(PyTorchMethod):
    """Muon for the weights of hidden layers, AdamW for the rest; no statistics."""

    interval: tuple[Kind, ...] = PLAIN_ONLY

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        hidden, rest = hidden_weights_and_rest(
            self.model, task.workload.is_output_params
        )
        self.optimizers = [
            Muon(
                [
                    {'params': hidden, 'use_muon': True},
                    {'params': rest, 'use_muon': False},
                ]
            )
        ]


def fisher_type(task: Task) -> str:
    """Returns the Fisher type of our K-FAC, that of its defaults."""
    del task
    return 'monte_carlo'


def methods(task: Task) -> dict[str, Callable[[Task], Method]]:
    """Returns what starts each method, by name."""
    del task
    return {
        'pytorch-optimizer, SOAP': Soap,
        'pytorch-optimizer, Shampoo': Shampoo,
        'pytorch-optimizer, Muon': MuonAndAdamW,
    }

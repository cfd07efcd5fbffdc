"""Optimisers of well-kept libraries, set up as their authors recommend."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_optimizer import SOAP, ScalableShampoo
from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting, RMSPropGraft
from pytorch_optimizer.optimizer.utils.partition import (
    BlockPartitioner,
    PreConditionerType,
)
from pytorch_optimizer.optimizer.utils.preconditioner import PreConditioner
from schedulefree import AdamWScheduleFree
from torch import nn

from experiments.rivals.hidden_weights import hidden_weights_and_rest
from experiments.rivals.schedules import learning_rate_factor
from experiments.rivals.settings import RivalSettings

# Steps between two updates of a second-order rival's preconditioner: that of K-FAC.
PRECONDITIONER_INTERVAL = 10
# Shampoo's state has objects of these classes, and checkpoints are read without
# leave for any other.
torch.serialization.add_safe_globals(
    [PreConditioner, RMSPropGraft, BlockPartitioner, PreConditionerType]
)
# Name of an optimiser to it and its peak learning rate.
Parts = dict[str, tuple[torch.optim.Optimizer, float]]


class Optimizers:
    """The optimisers of a trial, one but for Muon, which has AdamW beside it.

    `state_dict` and `load_state_dict` make it a value of an AlgoPerf optimiser state.

    Attributes:
      settings: The trial's settings.
      parts: The optimisers by name, with the peak learning rate of each.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: RivalSettings,
        step_hint: int,
        is_output: Callable[[str], bool],
    ) -> None:
        """Makes the optimisers.

        Args:
          model: The model.
          settings: The trial's settings.
          step_hint: The workload's number of steps, in whose multiples a schedule is
            long.
          is_output: Whether a parameter of some name belongs to the output layer.
        """
        self.settings = settings
        self._schedule_steps = round(settings.step_hint_factor * step_hint)
        self.parts = _make_parts(model, settings, self._schedule_steps, is_output)

    def step(self, global_step: int) -> None:
        """Takes a step at the learning rates that the schedule has for it."""
        factor = learning_rate_factor(
            self.settings.optimizer,
            global_step,
            self.settings.warmup_factor,
            self._schedule_steps,
        )
        for optimizer, peak in self.parts.values():
            for group in optimizer.param_groups:
                group['lr'] = peak * factor
            if isinstance(optimizer, SOAP):
                _wait_for_gradients(optimizer)
            optimizer.step()

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        for optimizer, _ in self.parts.values():
            optimizer.zero_grad()

    def set_training(self, training: bool) -> None:
        """Moves the parameters to where Schedule-Free trains or evaluates."""
        for optimizer, _ in self.parts.values():
            if isinstance(optimizer, AdamWScheduleFree):
                optimizer.train() if training else optimizer.eval()

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the optimisers by name."""
        return {name: part.state_dict() for name, (part, _) in self.parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the states."""
        for name, (part, _) in self.parts.items():
            part.load_state_dict(state_dict[name])


def _wait_for_gradients(soap: SOAP) -> None:
    """Lets SOAP begin with each parameter when that has a gradient other than zero.

    Its first gradient gives the eigenbasis of the first steps. Below a layer that
    starts at zero, as the head of the vision transformer does, that gradient is zero,
    and so would the basis be that of the coordinates.
    """
    for group in soap.param_groups:
        for parameter in group['params']:
            if parameter in soap.state or parameter.grad is None:
                continue
            if not parameter.grad.any():
                parameter.grad = None


def _make_parts(
    model: nn.Module,
    settings: RivalSettings,
    schedule_steps: int,
    is_output: Callable[[str], bool],
) -> Parts:
    beta1, beta2 = 1.0 - settings.one_minus_beta1, settings.beta2
    rate, decay = settings.learning_rate, settings.weight_decay
    parameters = [p for p in model.parameters() if p.requires_grad]
    match settings.optimizer:
        case 'nesterov':
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters, rate, momentum=beta1, weight_decay=decay, nesterov=True
            )
        case 'soap':
            optimizer = SOAP(
                parameters,
                rate,
                betas=(beta1, beta2),
                weight_decay=decay,
                precondition_frequency=PRECONDITIONER_INTERVAL,
            )
        case 'shampoo':
            optimizer = ScalableShampoo(
                parameters,
                rate,
                betas=(beta1, beta2),
                moving_average_for_momentum=True,
                weight_decay=decay,
                decoupled_weight_decay=True,
                start_preconditioning_step=PRECONDITIONER_INTERVAL,
                preconditioning_compute_steps=PRECONDITIONER_INTERVAL,
                graft_type=LayerWiseGrafting.RMSPROP,
                inverse_exponent_override=settings.shampoo_root,
            )
        case 'schedule_free_adamw':
            optimizer = AdamWScheduleFree(
                parameters,
                rate,
                betas=(beta1, beta2),
                weight_decay=decay,
                warmup_steps=int(settings.warmup_factor * schedule_steps),
            )
        case 'muon':
            return _muon(model, settings, is_output)
    return {settings.optimizer: (optimizer, rate)}


def _muon(
    model: nn.Module, settings: RivalSettings, is_output: Callable[[str], bool]
) -> Parts:
    """Returns Muon for the weights of hidden layers, and AdamW for the rest."""
    hidden, rest = hidden_weights_and_rest(model, is_output)
    muon = torch.optim.Muon(
        hidden,
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=1.0 - settings.one_minus_beta1,
        adjust_lr_fn='match_rms_adamw',
    )
    adamw = torch.optim.AdamW(
        rest,
        settings.adamw_learning_rate,
        betas=(0.9, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    return {
        'muon': (muon, settings.learning_rate),
        'adamw': (adamw, settings.adamw_learning_rate),
    }

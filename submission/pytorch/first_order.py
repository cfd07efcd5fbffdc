"""The first-order rules: what becomes of a (preconditioned) gradient."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..settings import Settings
from .layers import KFACLayer
from .preconditioner import KFACPreconditioner

_EPSILON = 1e-8


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
            torch._foreach_add_(roots, _EPSILON)
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


class FirstOrderOptimizer:
    """Turns gradients into parameter updates by the trial's first-order rule."""

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        preconditioner: KFACPreconditioner | None,
    ) -> None:
        """Prepares the rule.

        Args:
          model: The model, not wrapped.
          settings: The trial's settings.
          preconditioner: None trains every parameter by NAdamW.
        """
        self.settings = settings
        self._preconditioner = preconditioner
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        layers = [] if preconditioner is None else preconditioner.layers
        in_layers = {name for layer in layers for name in layer.parameter_names}
        everything = list(self._parameters)
        rule = settings.first_order_rule
        adaptive = [
            name for name in everything if rule != 'momentum' or name not in in_layers
        ]
        followed = [name for name in everything if name in in_layers]
        self._nadamw = Moments(adaptive, second=True)
        self._momentum = Moments([] if rule == 'nadamw' else followed, second=False)
        self.skipped_steps = 0

    @torch.no_grad()
    def step(self, learning_rate: float) -> Tensor:
        """Updates the parameters from their `.grad`.

        A step whose gradient is not finite changes nothing and is counted.

        Args:
          learning_rate: The learning rate of this step.

        Returns:
          The norm of the whole gradient, before clipping.
        """
        settings = self.settings
        gradients = {
            name: parameter.grad
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        values = list(gradients.values())
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        if not bool(torch.isfinite(norm)):
            self.skipped_steps += 1
            return norm
        if settings.grad_clip is not None:
            # torch.nn.utils.clip_grad_norm_'s rule, as in AlgoPerf's baseline.
            factor = (settings.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(values, factor)
        beta1, beta2 = 1.0 - settings.one_minus_beta1, settings.beta2
        preconditioned = dict(gradients)
        for layer, layer_gradients in self._layers_with(gradients):
            assert self._preconditioner is not None
            outcome = self._preconditioner.precondition(layer, layer_gradients)
            preconditioned.update(zip(layer.parameter_names, outcome, strict=True))
        grafted = settings.first_order_rule == 'grafted'
        updates = self._nadamw.updates(
            gradients if grafted else preconditioned, beta1, beta2
        )
        directions = self._momentum.updates(preconditioned, beta1, beta2)
        if grafted:
            for layer, _ in self._layers_with(gradients):
                names = layer.parameter_names
                target = _joint_norm([updates[name] for name in names])
                length = _joint_norm([directions[name] for name in names])
                # A layer without any gradient yet has no direction to rescale.
                scale = torch.where(length > 0, target / length, 0.0)
                for name in names:
                    directions[name].mul_(scale)
        updates.update(directions)
        parameters: list[Tensor] = [self._parameters[name] for name in updates]
        torch._foreach_mul_(parameters, 1.0 - learning_rate * settings.weight_decay)
        torch._foreach_add_(parameters, list(updates.values()), alpha=-learning_rate)
        return norm

    def _layers_with(
        self, gradients: Mapping[str, Tensor]
    ) -> Iterator[tuple[KFACLayer, list[Tensor]]]:
        """Yields the layers all of whose parameters have a gradient."""
        if self._preconditioner is None:
            return
        for layer in self._preconditioner.layers:
            if all(name in gradients for name in layer.parameter_names):
                yield layer, [gradients[name] for name in layer.parameter_names]

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments by parameter name, and the count of skipped steps."""
        return {
            'nadamw': self._nadamw.state_dict(),
            'momentum': self._momentum.state_dict(),
            'skipped_steps': self.skipped_steps,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state, bit for bit, on the devices of the parameters.

        Raises:
          ValueError: If the checkpoint has moments of a parameter that the model
            lacks.
        """
        devices = {name: p.device for name, p in self._parameters.items()}
        for key in ('nadamw', 'momentum'):
            for name in state_dict[key]['first']:
                if name not in devices:
                    raise ValueError(
                        f'The checkpoint has moments for parameter {name!r}, which '
                        'the model lacks.'
                    )
        self._nadamw.load_state_dict(state_dict['nadamw'], devices)
        self._momentum.load_state_dict(state_dict['momentum'], devices)
        self.skipped_steps = state_dict['skipped_steps']


def _joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))

"""The first-order rules: what becomes of a (preconditioned) gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..fan_in import learning_rate_scales
from ..settings import Settings
from .kfac_layer import KFACLayer
from .moments import Moments
from .preconditioner import KFACPreconditioner
from .running_statistics import RunningStatistics


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

        Raises:
          ValueError: If all parameters are frozen.
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
        for_all = rule in ('nadamw', 'grafted')
        adaptive = [name for name in everything if for_all or name not in in_layers]
        followed = [name for name in everything if name in in_layers]
        self._scales = learning_rate_scales(layers, settings.fan_in_exponent)
        if not self._parameters:
            raise ValueError(
                'The model has no parameter to train: all of its '
                f'{sum(1 for _ in model.parameters())} are frozen.'
            )
        self.running_statistics = RunningStatistics(model)
        device = next(iter(self._parameters.values())).device
        self._nadamw = Moments(adaptive, device, second=True)
        if rule == 'nadamw':
            followed = []
        self._momentum = Moments(followed, device, second=False)
        self._skipped_steps = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def skipped_steps(self) -> int:
        """Number of steps whose gradient was not finite; waits for the device."""
        return int(self._skipped_steps)

    @torch.no_grad()
    def step(self, learning_rate: float) -> Tensor:
        """Updates the parameters from their `.grad`.

        A step whose gradient is not finite changes nothing and is counted; what its
        forward pass did to running statistics is taken back if they were remembered
        before it. That is decided on the device, which the host does not wait for.

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
        finite = torch.isfinite(norm)
        self._skipped_steps += ~finite
        self.running_statistics.restore_unless(finite)
        if settings.grad_clip is not None:
            # torch.nn.utils.clip_grad_norm_'s rule, as in AlgoPerf's baseline.
            factor = (settings.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(values, factor)
        updates = self._updates(gradients, finite)
        smaller = [name for name in updates if name in self._scales]
        if smaller:
            torch._foreach_mul_(
                [updates[name] for name in smaller],
                [self._scales[name] for name in smaller],
            )
        parameters: list[Tensor] = [self._parameters[name] for name in updates]
        decay = torch.ones((), dtype=parameters[0].dtype, device=norm.device)
        decay.masked_fill_(finite, 1.0 - learning_rate * settings.weight_decay)
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, list(updates.values()), alpha=-learning_rate)
        return norm

    def _updates(
        self, gradients: Mapping[str, Tensor], finite: Tensor
    ) -> dict[str, Tensor]:
        """Returns what the learning rate multiplies, by parameter name.

        Args:
          gradients: Gradients by parameter name.
          finite: Whether they are finite; all updates are zero if not.
        """
        settings, preconditioner = self.settings, self._preconditioner
        beta1, beta2 = 1.0 - settings.one_minus_beta1, settings.beta2
        if preconditioner is None:
            return self._nadamw.updates(gradients, beta1, beta2, finite)
        if settings.first_order_rule == 'spectral':
            updates = self._nadamw.updates(gradients, beta1, beta2, finite)
            momenta = self._momentum.updates(gradients, beta1, beta2, finite)
            reached = [
                layer
                for layer in preconditioner.layers
                if any(name in gradients for name in layer.parameter_names)
            ]
            updates.update(
                preconditioner.spectral_directions(reached, momenta, gradients)
            )
            return updates
        layers = _layers_with(gradients, preconditioner.layers)
        preconditioned = dict(gradients)
        natural_scale = settings.first_order_rule == 'momentum'
        outcomes = preconditioner.precondition_all(layers)
        for (layer, layer_gradients), outcome in zip(layers, outcomes, strict=True):
            if natural_scale:
                scale = preconditioner.curvature_scale(layer)
                # Half a preconditioner has no scale; follow the gradient until then.
                outcome = (
                    layer_gradients
                    if scale is None
                    else [part / scale for part in outcome]
                )
            preconditioned.update(zip(layer.parameter_names, outcome, strict=True))
        if settings.first_order_rule == 'nadamw':
            return self._nadamw.updates(preconditioned, beta1, beta2, finite)
        updates = self._nadamw.updates(gradients, beta1, beta2, finite)
        followed = self._momentum.updates(preconditioned, beta1, beta2, finite)
        if settings.first_order_rule == 'grafted':
            for layer, _ in layers:
                names = layer.parameter_names
                target = _joint_norm([updates[name] for name in names])
                length = _joint_norm([followed[name] for name in names])
                # A layer without any gradient yet has no direction to rescale.
                scale = torch.where(length > 0, target / length, 0.0)
                for name in names:
                    followed[name].mul_(scale)
        return {**updates, **followed}

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments by parameter name, and the count of skipped steps."""
        return {
            'nadamw': self._nadamw.state_dict(),
            'momentum': self._momentum.state_dict(),
            'skipped_steps': self._skipped_steps,
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
        self._skipped_steps.fill_(state_dict['skipped_steps'])


def _layers_with(
    gradients: Mapping[str, Tensor], layers: Sequence[KFACLayer]
) -> list[tuple[KFACLayer, list[Tensor]]]:
    """Returns the layers all of whose parameters have a gradient, and these."""
    return [
        (layer, [gradients[name] for name in layer.parameter_names])
        for layer in layers
        if all(name in gradients for name in layer.parameter_names)
    ]


def _joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))

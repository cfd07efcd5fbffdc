"""The first-order rules: what becomes of a (preconditioned) gradient."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..fan_in import learning_rate_scales
from ..settings import Settings
from .moments import MomentsState, scale_by_nadam, scale_by_nesterov
from .naming import flatten, unflatten
from .preconditioner import KFACPreconditioner, KFACState

Named = dict[str, jax.Array]


class FirstOrderState(NamedTuple):
    """What the first-order rule remembers between steps.

    Attributes:
      nadamw: Moments of the parameters that NAdamW trains or scales.
      momentum: Moments of the parameters that follow their momentum.
      skipped_steps: Number of steps whose gradient was not finite.
    """

    nadamw: MomentsState
    momentum: MomentsState
    skipped_steps: jax.Array


class FirstOrderOptimizer:
    """Turns gradients into parameter updates by the trial's first-order rule."""

    def __init__(
        self, settings: Settings, preconditioner: KFACPreconditioner | None
    ) -> None:
        """Prepares the rule.

        Args:
          settings: The trial's settings.
          preconditioner: None trains every parameter by NAdamW.
        """
        self.settings = settings
        self._preconditioner = preconditioner
        beta1 = 1.0 - settings.one_minus_beta1
        self._nadam = scale_by_nadam(beta1, settings.beta2)
        self._nesterov = scale_by_nesterov(beta1)
        layers = [] if preconditioner is None else preconditioner.layers
        self._in_layers = {name for layer in layers for name in layer.parameter_names}
        self._scales = learning_rate_scales(layers, settings.fan_in_exponent)

    def _adaptive(self, named: Mapping[str, jax.Array]) -> Named:
        """Picks the parameters whose update NAdamW makes or scales."""
        all_of_them = self.settings.first_order_rule in ('nadamw', 'grafted')
        return {
            name: value
            for name, value in named.items()
            if all_of_them or name not in self._in_layers
        }

    def _followed(self, named: Mapping[str, jax.Array]) -> Named:
        """Picks the parameters that follow their momentum."""
        if self.settings.first_order_rule == 'nadamw':
            return {}
        return {name: value for name, value in named.items() if name in self._in_layers}

    def init(self, params: Any) -> FirstOrderState:
        """Returns the state before the first step."""
        named = flatten(params)
        return FirstOrderState(
            self._nadam.init(self._adaptive(named)),
            self._nesterov.init(self._followed(named)),
            jnp.zeros((), jnp.int32),
        )

    def step(
        self,
        params: Any,
        gradients: Any,
        state: FirstOrderState,
        kfac_state: KFACState | None,
        learning_rate: jax.Array | float,
    ) -> tuple[Any, FirstOrderState, jax.Array]:
        """Updates the parameters.

        A step whose gradient is not finite changes neither parameters nor moments, and
        is counted.

        Args:
          params: The parameters.
          gradients: Their gradients.
          state: The state so far.
          kfac_state: The preconditioner's state, None without one.
          learning_rate: The learning rate of this step.

        Returns:
          Parameters, state, and the norm of the whole gradient before clipping.
        """
        settings = self.settings
        named = flatten(gradients)
        norm = _joint_norm(list(named.values()))
        if settings.grad_clip is not None:
            # The rule of AlgoPerf's baseline.
            factor = jnp.minimum(settings.grad_clip / (norm + 1e-6), 1.0)
            named = {name: gradient * factor for name, gradient in named.items()}
        updates, nadamw, momentum = self._updates(named, state, kfac_state)
        for name, scale in self._scales.items():
            updates[name] = updates[name] * scale
        decay = 1.0 - learning_rate * settings.weight_decay
        now = flatten(params)
        stepped = {
            name: value * decay - learning_rate * updates[name]
            for name, value in now.items()
        }
        finite = jnp.isfinite(norm)
        stepped, nadamw, momentum = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (stepped, nadamw, momentum),
            (now, state.nadamw, state.momentum),
        )
        skipped = state.skipped_steps + ~finite
        return (
            unflatten(stepped, params),
            FirstOrderState(nadamw, momentum, skipped),
            norm,
        )

    def _updates(
        self, gradients: Named, state: FirstOrderState, kfac_state: KFACState | None
    ) -> tuple[Named, MomentsState, MomentsState]:
        """Returns what the learning rate multiplies, and the moments."""
        preconditioner, rule = self._preconditioner, self.settings.first_order_rule
        if preconditioner is None or kfac_state is None:
            updates, nadamw = self._nadam.update(gradients, state.nadamw)
            return updates, nadamw, state.momentum
        if rule == 'spectral':
            updates, nadamw = self._nadam.update(
                self._adaptive(gradients), state.nadamw
            )
            momenta, momentum = self._nesterov.update(
                self._followed(gradients), state.momentum
            )
            directions = preconditioner.spectral_directions(
                kfac_state, momenta, gradients
            )
            return {**updates, **directions}, nadamw, momentum
        preconditioned = preconditioner.precondition(kfac_state, gradients)
        if rule == 'nadamw':
            updates, nadamw = self._nadam.update(preconditioned, state.nadamw)
            return updates, nadamw, state.momentum
        if rule == 'momentum':
            for layer in preconditioner.layers:
                scale = preconditioner.curvature_scale(kfac_state, layer)
                for name in layer.parameter_names:
                    # Half a preconditioner has no scale; follow the gradient until
                    # then.
                    preconditioned[name] = jnp.where(
                        scale > 0,
                        preconditioned[name] / jnp.where(scale > 0, scale, 1),
                        gradients[name],
                    )
        updates, nadamw = self._nadam.update(self._adaptive(gradients), state.nadamw)
        directions, momentum = self._nesterov.update(
            self._followed(preconditioned), state.momentum
        )
        if rule == 'grafted':
            for layer in preconditioner.layers:
                names = layer.parameter_names
                target = _joint_norm([updates[name] for name in names])
                length = _joint_norm([directions[name] for name in names])
                # A layer without any gradient yet has no direction to rescale.
                scale = jnp.where(
                    length > 0, target / jnp.where(length > 0, length, 1), 0
                )
                for name in names:
                    directions[name] = directions[name] * scale
        return {**updates, **directions}, nadamw, momentum


def _joint_norm(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.asarray(sum(jnp.sum(array**2) for array in arrays)))

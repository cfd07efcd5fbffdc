"""The first-order rules: what becomes of a (preconditioned) gradient."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..fan_in import learning_rate_scales
from ..settings import Settings
from .matrices import MatrixStacks
from .moments import MomentsState, scale_by_nadam, scale_by_nesterov
from .naming import flatten, unflatten
from .preconditioner import KFACPreconditioner, KFACState

Named = dict[str, jax.Array]


class FirstOrderState(NamedTuple):
    """What the first-order rule remembers between steps.

    Moments go by the name of their parameter, those of K-FAC's layers by that of the
    stack of matrices that they are in.

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
        self._stacks = (
            MatrixStacks.of([]) if preconditioner is None else preconditioner.stacks
        )
        self._scales = learning_rate_scales(layers, settings.fan_in_exponent)

    def _gather(self, named: Mapping[str, jax.Array]) -> Named:
        """Puts stacks of matrices in the place of the parameters of K-FAC's layers."""
        in_layers = self._stacks.parameter_names
        others = {name: v for name, v in named.items() if name not in in_layers}
        return {**others, **self._stacks.gather(named)}

    def _split(self, gathered: Mapping[str, jax.Array]) -> Named:
        """Undoes `_gather`."""
        others = {n: v for n, v in gathered.items() if n not in self._stacks.layers}
        return {**others, **self._stacks.split(gathered)}

    def _adaptive(self, gathered: Mapping[str, jax.Array]) -> Named:
        """Picks the parameters whose update NAdamW makes or scales."""
        all_of_them = self.settings.first_order_rule in ('nadamw', 'grafted')
        return {
            name: value
            for name, value in gathered.items()
            if all_of_them or name not in self._stacks.layers
        }

    def _followed(self, gathered: Mapping[str, jax.Array]) -> Named:
        """Picks the parameters that follow their momentum."""
        if self.settings.first_order_rule == 'nadamw':
            return {}
        return self._in_layers(gathered)

    def _in_layers(self, gathered: Mapping[str, jax.Array]) -> Named:
        return {stack: gathered[stack] for stack in self._stacks.layers}

    def init(self, params: Any) -> FirstOrderState:
        """Returns the state before the first step."""
        gathered = self._gather(flatten(params))
        return FirstOrderState(
            self._nadam.init(self._adaptive(gathered)),
            self._nesterov.init(self._followed(gathered)),
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
        gathered = self._gather(flatten(gradients))
        norm = _joint_norm(list(gathered.values()))
        if settings.grad_clip is not None:
            # The rule of AlgoPerf's baseline.
            factor = jnp.minimum(settings.grad_clip / (norm + 1e-6), 1.0)
            gathered = {name: g * factor for name, g in gathered.items()}
        directions, nadamw, momentum = self._directions(gathered, state, kfac_state)
        updates = self._split(directions)
        for name, scale in self._scales.items():
            updates[name] = updates[name] * scale
        decay = 1.0 - learning_rate * settings.weight_decay
        now = flatten(params)
        stepped = {
            name: (value * decay - learning_rate * updates[name]).astype(value.dtype)
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

    def _directions(
        self, gradients: Named, state: FirstOrderState, kfac_state: KFACState | None
    ) -> tuple[Named, MomentsState, MomentsState]:
        """Returns what the learning rate multiplies, gathered, and the moments."""
        preconditioner, rule = self._preconditioner, self.settings.first_order_rule
        if preconditioner is None or kfac_state is None:
            directions, nadamw = self._nadam.update(gradients, state.nadamw)
            return directions, nadamw, state.momentum
        in_layers = self._in_layers(gradients)
        if rule == 'spectral':
            adapted, nadamw = self._nadam.update(
                self._adaptive(gradients), state.nadamw
            )
            momenta, momentum = self._nesterov.update(in_layers, state.momentum)
            steepest = preconditioner.spectral_directions(
                kfac_state, momenta, in_layers
            )
            return {**adapted, **steepest}, nadamw, momentum
        preconditioned = preconditioner.precondition_matrices(
            kfac_state, self._stacks, in_layers
        )
        if rule == 'nadamw':
            directions, nadamw = self._nadam.update(
                {**gradients, **preconditioned}, state.nadamw
            )
            return directions, nadamw, state.momentum
        if rule == 'momentum':
            for stack, layers in self._stacks.layers.items():
                scale = preconditioner.curvature_scales(kfac_state, layers)
                scale = scale[:, None, None, None]
                # Half a preconditioner has no scale; follow the gradient until then.
                preconditioned[stack] = jnp.where(
                    scale > 0,
                    preconditioned[stack] / jnp.where(scale > 0, scale, 1),
                    gradients[stack],
                )
        adapted, nadamw = self._nadam.update(self._adaptive(gradients), state.nadamw)
        followed, momentum = self._nesterov.update(preconditioned, state.momentum)
        if rule == 'grafted':
            for stack in self._stacks.layers:
                target, length = (
                    jnp.sqrt(jnp.sum(of[stack] ** 2, (1, 2, 3), keepdims=True))
                    for of in (adapted, followed)
                )
                # A layer without any gradient yet has no direction to rescale.
                scale = jnp.where(
                    length > 0, target / jnp.where(length > 0, length, 1), 0
                )
                followed[stack] = followed[stack] * scale
        return {**adapted, **followed}, nadamw, momentum


def _joint_norm(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.asarray(sum(jnp.sum(array**2) for array in arrays)))

"""A Kronecker factor over time: its moving average and its inverse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .inverses import mean_eigenvalue, vanishing_eigenvalue


class KroneckerFactor(NamedTuple):
    """What K-FAC keeps for one side of a layer.

    Attributes:
      moving_average: Exponential moving average of the factor, `[groups, d, d]`,
        not bias-corrected; zero before the first statistic.
      averaged_weight: Sum of the weights in the average, 1 - decay**updates.
      inverse: Damped inverse in units of the factor's mean eigenvalue,
        `[groups, d, d]`; the identity, which preconditions nothing, until there is
        one.
      inverted_scale: Mean eigenvalue of the factor that `inverse` was computed from;
        zero until there is one.
    """

    moving_average: jax.Array
    averaged_weight: jax.Array
    inverse: jax.Array
    inverted_scale: jax.Array

    @classmethod
    def empty(cls, groups: int, dim: int, dtype: jnp.dtype) -> 'KroneckerFactor':
        """Returns a factor before its first statistic."""
        identity = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), (groups, dim, dim))
        return cls(
            jnp.zeros((groups, dim, dim), dtype),
            jnp.zeros((), dtype),
            identity,
            jnp.zeros((), dtype),
        )

    def update(
        self, statistic: jax.Array, decay: float, accept: jax.Array
    ) -> 'KroneckerFactor':
        """Moves the average towards a new statistic of shape `[groups, d, d]`.

        Nothing changes unless `accept`, nor if the statistic vanishes to
        floating-point precision.
        """
        size = mean_eigenvalue(statistic)
        accept = accept & (size > vanishing_eigenvalue(statistic.dtype))
        weight = jnp.where(accept, 1.0 - decay, 0.0).astype(statistic.dtype)
        # Not zero times the statistic, which may not be a number.
        change = jnp.where(accept, statistic - self.moving_average, 0)
        return self._replace(
            moving_average=self.moving_average + weight * change,
            averaged_weight=self.averaged_weight
            + weight * (1.0 - self.averaged_weight),
        )

    def bias_corrected(self) -> jax.Array:
        """Returns the average as if it had not begun at zero.

        The identity before the first statistic.
        """
        identity = jnp.eye(self.moving_average.shape[-1], dtype=self.inverse.dtype)
        weight = self.averaged_weight
        return jnp.where(
            weight > 0, self.moving_average / jnp.where(weight > 0, weight, 1), identity
        )
